"""The tables of a run folder: the columns that the report reads. A table may hold more."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

Schema = Mapping[str, pl.DataType | type[pl.DataType]]

RESULTS = {
    "task": pl.String, "arm": pl.String, "defense": pl.String, "params": pl.String, "strength": pl.Float64,
    "is_control": pl.Boolean, "attack": pl.String, "student": pl.String, "metric": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip
EQUAL_COST = {
    "task": pl.String, "student": pl.String, "attack": pl.String, "utility": pl.String, "drop": pl.Float64,
    "metric": pl.String, "defense": pl.String, "reference": pl.String, "difference": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "n": pl.Int64, "n_seeds": pl.Int64,
    "status": pl.String,
}  # fmt: skip
LOSSES = {
    "task": pl.String, "arm": pl.String, "attack": pl.String, "student": pl.String, "seed": pl.Int64,
    "step": pl.Int64, "split": pl.String, "loss": pl.Float64,
}  # fmt: skip
COSTS = {
    "task": pl.String, "arm": pl.String, "stage": pl.String, "seconds": pl.Float64, "tokens": pl.Float64,
    "tokens_per_second": pl.Float64, "relative": pl.Float64,
}  # fmt: skip
RECOVERY = {
    "task": pl.String, "student": pl.String, "arm": pl.String, "attack": pl.String, "metric": pl.String,
    "clean": pl.Float64, "passive": pl.Float64, "value": pl.Float64,
    "gain": pl.Float64, "gain_low": pl.Float64, "gain_high": pl.Float64,
    "recovery": pl.Float64, "recovery_low": pl.Float64, "recovery_high": pl.Float64,
    "n": pl.Int64, "n_seeds": pl.Int64, "status": pl.String,
    "queries": pl.Int64, "query_tokens": pl.Int64, "own_tokens": pl.Int64, "trained_tokens": pl.Int64,
    "leaked": pl.Int64, "seconds": pl.Float64, "extra_seconds": pl.Float64,
}  # fmt: skip
GAINS = {
    "task": pl.String, "arm": pl.String, "attack": pl.String, "access": pl.String, "student": pl.String,
    "metric": pl.String, "undistilled": pl.Float64, "best": pl.Float64, "best_attack": pl.String,
    "value": pl.Float64, "gain": pl.Float64, "gain_low": pl.Float64, "gain_high": pl.Float64,
    "retained": pl.Float64, "retained_low": pl.Float64, "retained_high": pl.Float64,
    "worst": pl.Boolean, "worst_low": pl.Float64, "worst_high": pl.Float64, "teacher_accuracy": pl.Float64,
    "teacher_drop": pl.Float64, "teacher_drop_low": pl.Float64, "teacher_drop_high": pl.Float64,
    "n": pl.Int64, "n_seeds": pl.Int64, "status": pl.String,
}  # fmt: skip
EDITS: Schema = {
    "task": pl.String, "arm": pl.String, "defense": pl.String, "draw": pl.Int64, "edit": pl.Int64,
    "measure": pl.String, "first": pl.Float64, "held_out": pl.Float64, "cmi_before": pl.Float64,
    "cmi_after": pl.Float64, "cmi_change": pl.Float64, "cmi_change_se": pl.Float64, "agreement": pl.Float64,
    "kl": pl.Float64, "clean_accuracy": pl.Float64, "accuracy": pl.Float64, "kept": pl.Boolean,
    "chosen_step": pl.Int64, "steps": pl.Int64, "n": pl.Int64, "curve": pl.List(pl.Float64),
}  # fmt: skip
PREDICTORS: Schema = {
    "task": pl.String, "attack": pl.String, "student": pl.String, "predictor": pl.String, "rho": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_draws": pl.Int64, "n_arms": pl.Int64,
}  # fmt: skip
UTILITY = {
    "task": pl.String, "arm": pl.String, "utility": pl.String, "clean": pl.Float64, "value": pl.Float64,
    "drop": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_draws": pl.Int64,
}  # fmt: skip
GOVERNANCE = {
    "task": pl.String, "arm": pl.String, "attack": pl.String, "student": pl.String, "measure": pl.String,
    "teacher": pl.Float64, "undistilled": pl.Float64, "value": pl.Float64,
    "transfer": pl.Float64, "transfer_low": pl.Float64, "transfer_high": pl.Float64,
    "capability": pl.Float64, "capability_low": pl.Float64, "capability_high": pl.Float64,
    "gap": pl.Float64, "gap_low": pl.Float64, "gap_high": pl.Float64, "p": pl.Float64,
    "n": pl.Int64, "n_seeds": pl.Int64, "status": pl.String,
}  # fmt: skip
MATRIX = {
    "task": pl.String, "protected": pl.String, "arm": pl.String, "attack": pl.String, "student": pl.String,
    "metric": pl.String, "clean": pl.Float64, "value": pl.Float64,
    "loss": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "teacher_drop": pl.Float64, "teacher_drop_low": pl.Float64, "teacher_drop_high": pl.Float64,
    "n": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip
DETECTABILITY = {
    "task": pl.String, "arm": pl.String, "detector": pl.String, "measure": pl.String, "unit": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_problems": pl.Int64,
    "note": pl.String,
}  # fmt: skip
