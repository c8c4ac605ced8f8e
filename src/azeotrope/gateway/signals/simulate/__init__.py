"""Simulated traffic: who asks what and when, to set thresholds on and to measure detection with. No model is run.

What it can and cannot say. Texts come from hand-written phrase lists and arrivals from simple laws, so false-alarm
rates are those of this population, not of anybody's customers: calibrate on your own logs (`azeotrope signals
calibrate`). Phrases of conversation and templates of programs come in two halves: calibrations use the first,
reports the second, with other seeds. Common to both are the laws of arrival and volume, two subjects in other
words (letters, homework) and the products, tickets and addresses that fill templates. No calibration sees an
attack.
"""
