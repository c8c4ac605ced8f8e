"""Linear maps of logits z' = (E + AB)z, their inverses, and what is needed to learn them.

Logits are known up to a constant per row, so a map needs a gauge: rows of B are centered (B·1 = 0), which makes
B act on centered logits and the output independent of the constant (arXiv 2602.03396 leaves it open).

Shapes: N rows (tokens), V vocabulary, R rank, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError

Fitted = Callable[[Tensor], Tensor]  # rows [M, V] under a linear map


def centered(b_RV: Tensor) -> Tensor:
    """B in the fixed gauge: B(E − 11ᵀ/V)."""
    return b_RV - b_RV.mean(-1, keepdim=True)


def transform(logits_NV: Tensor, a_VR: Tensor, b_RV: Tensor) -> Tensor:
    """z + A(Bz), O(VR) a row. B is taken as it is: `centered` fixes the gauge."""
    return logits_NV + (logits_NV @ b_RV.T) @ a_VR.T


def inverse(a_VR: Tensor, b_RV: Tensor) -> Tensor:
    """A' with (E + AB)⁻¹ = E + A'B, by Woodbury: A' = −A(I + BA)⁻¹. Raises ConfigError if it is singular."""
    core_RR = torch.eye(a_VR.shape[1], dtype=a_VR.dtype) + b_RV @ a_VR
    sizes_R = torch.linalg.svdvals(core_RR)
    if not sizes_R[-1] > 10.0 * torch.finfo(core_RR.dtype).eps * max(1.0, float(sizes_R[0])):
        raise ConfigError("The map E + AB is singular: some direction of the logits is lost for good.")
    found: Tensor = torch.linalg.solve(core_RR.T, a_VR.T)
    return -found.T


def fit_map(from_NV: Tensor, to_NV: Tensor, ridge: float) -> Fitted:
    """x ↦ M x, M minimizing Σ ‖M x − y‖² + `ridge`·N·‖M − E‖² over pairs of centered rows, in float64.

    What a thief learns of an unknown map from outputs whose originals he knows. Directions that the data do not
    show stay as they are. Kept is M [V, V], or where that is larger two tables of rows, 2·N·V numbers:
    M = E + (Y − X)ᵀ(XXᵀ + `ridge`·N·E)⁻¹X. Raises ConfigError for a ridge that is not positive or
    rows that do not pair.
    """
    if not ridge > 0.0:
        raise ConfigError(f"The ridge of a fitted map must be positive, not {ridge}.")
    if from_NV.shape != to_NV.shape:
        raise ConfigError(f"Rows must pair: {tuple(from_NV.shape)} and {tuple(to_NV.shape)} were given.")
    x_NV, y_NV = (z.double() - z.double().mean(-1, keepdim=True) for z in (from_NV, to_NV))
    n, size = x_NV.shape
    weight, few = ridge * n, 2 * n < size
    eye = torch.eye(n if few else size, dtype=torch.float64)
    gram = (x_NV @ x_NV.T if few else x_NV.T @ x_NV) + weight * eye
    if few:
        added_NV = torch.linalg.solve(gram, y_NV - x_NV)
        return lambda z_MV: z_MV + (z_MV @ x_NV.T) @ added_NV
    solved_VV = torch.linalg.solve(gram, x_NV.T @ y_NV + weight * eye)
    return lambda z_MV: z_MV @ solved_VV


def inner(first_NV: Tensor, second_NV: Tensor, hidden_ND: Tensor, chunk: int = 512) -> Tensor:
    """⟨Σ u_t h_tᵀ, Σ v_t h_tᵀ⟩ = Σ_st (u_s·v_t)(h_s·h_t), without any [V, D] gradient (the Gram trick).

    Memory is `chunk`·N for the two Gram blocks, and N² for what a backward pass keeps of them: less than [V, D]
    for batches of fewer tokens than √(V·D). The gradient of a cross-entropy in the LM head is Σ u_t h_tᵀ with u
    the error in the logits and h the head's input, so this is the inner product of two such gradients.
    """
    total = first_NV.new_zeros(())
    for start in range(0, len(first_NV), chunk):
        rows = slice(start, start + chunk)
        total = total + ((first_NV[rows] @ second_NV.T) * (hidden_ND[rows] @ hidden_ND.T)).sum()
    return total


def cosine(first_NV: Tensor, second_NV: Tensor, hidden_ND: Tensor, chunk: int = 512) -> Tensor:
    """The cosine of two head gradients given their errors [N, V] and the head's inputs [N, D]; 0 if one is 0."""
    product, one, other = (
        inner(a, b, hidden_ND, chunk)
        for a, b in ((first_NV, second_NV), (first_NV, first_NV), (second_NV, second_NV))
    )
    return product / (one.clamp(min=1e-30).sqrt() * other.clamp(min=1e-30).sqrt())


def error_of(student_NV: Tensor, target_NV: Tensor, labels_N: Tensor, alpha: float) -> Tensor:
    """σ(z_S) − [(1 − α)e_y + α σ(z)]: the logit gradient of (1 − α)·CE + α·KL(σ(z) ‖ σ(z_S)). [N, V]."""
    error_NV = torch.softmax(student_NV, -1) - alpha * torch.softmax(target_NV, -1)
    if alpha == 1.0:
        return error_NV
    share = torch.full_like(error_NV[:, :1], 1.0 - alpha)
    return error_NV.scatter_add(-1, labels_N[:, None], -share)
