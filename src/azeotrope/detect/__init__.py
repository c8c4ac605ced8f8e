"""Detectability: how visible a defense is to whoever reads the traces."""
