"""Small programs that write in place, each as the body of a function of one float32 tensor x of shape (4, 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PROGRAMS", "program"]


def program(name: str) -> Callable[[Tensor], Any]:
    """The program as a function."""
    body = "\n".join(f"    {line}" for line in PROGRAMS[name].split("; "))
    scope: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(f"def {name}(x):\n{body}", scope)
    found: Callable[[Tensor], Any] = scope[name]
    return found


PROGRAMS: dict[str, str] = {
    "add_": "y = x * 2; y.add_(x, alpha=3); return y",
    "add_input": "x.add_(1); return x * 2",
    "relu_": "return (x * 2).relu_()",
    "mul_promote": (
        "y = (x * 3).to(torch.float32); y.mul_(torch.tensor(2.5, dtype=torch.float64)); z = (x * 4).half(); "
        "z.mul_(x); return (y, z)"
    ),
    "int_add_float": "y = (x * 4).long(); y.add_(2); y.mul_(x.long()); return (y, y.float())",
    "bool_or_and_xor": "y = x > 0; y |= x < -1; y &= x > -2; y ^= x > 1; return (y, x * y)",
    "copy_broadcast": "y = torch.zeros(4, 6); y.copy_(x[0]); return y",
    "copy_dtype": (
        "y = torch.zeros(4, 6, dtype=torch.float64); y.copy_(x); z = torch.zeros(4, 6, dtype=torch.int64); "
        "z.copy_(x * 5); return (y, z)"
    ),
    "fill_": "y = x * 1; y[0].fill_(3.0); return y",
    "fill_tensor": "y = x * 1; y[0].fill_(x.sum()); return y",
    "zero_": "y = x * 1; y[:, 1].zero_(); return y",
    "masked_fill_": "y = x * 1; y.masked_fill_(y > 0, -1.0); return y",
    "masked_fill_t": "y = x * 1; y.masked_fill_(y > 0, x.sum()); return y",
    "mask_write": "y = x * 1; y[y > 0] = 0.5; return y",
    "mask_write_tensor": "y = x * 1; y[x > 0] = x[x > 0] * 2; return y",
    "mask_write_rows": "y = x * 1; y[torch.tensor([True, False, True, False])] = x[:2]; return y",
    "index_put": "y = x * 1; y[torch.tensor([0, 2]), torch.tensor([1, 1])] = x[0, :2]; return y",
    "index_put_accumulate": "y = x * 1; y.index_put_((torch.tensor([0, 0]),), x[:2], accumulate=True); return y",
    "scatter_": "y = torch.zeros(4, 6); y.scatter_(1, x.argsort(1), x); return y",
    "scatter_value": "y = torch.zeros(4, 6); y.scatter_(1, x.argmax(1, keepdim=True), 1.0); return y",
    "scatter_add_": "y = torch.zeros(4, 6); y.scatter_add_(1, x.argsort(1) // 2, x); return y",
    "scatter_reduce_": "y = torch.zeros(4, 6); y.scatter_reduce_(1, x.argsort(1) // 2, x, 'amax'); return y",
    "index_add_": "y = torch.zeros(4, 6); y.index_add_(0, torch.tensor([0, 0, 3, 1]), x, alpha=2); return y",
    "index_copy_": "y = torch.zeros(4, 6); y.index_copy_(0, torch.tensor([2, 3]), x[:2]); return y",
    "index_fill_": "y = x * 1; y.index_fill_(1, torch.tensor([2, 3]), 7.0); return y",
    "clamp_": "y = x * 1; y.clamp_(-0.5, 0.5); y.clamp_min_(0); return y",
    "set_slice": "y = x * 1; y[1:3] = x[:2]; y[..., 0] = 5; y[:, -1] = x[:, 0]; return y",
    "set_int": "y = x * 1; y[2] = x[0]; y[-1, 3] = 2; y[-1, -2] = x[0, 0]; return y",
    "set_none": "y = x * 1; y[None, 1:2] = x[None, :1]; y[:, None, 2] = x[:, :1]; return y",
    "set_step": "y = x * 1; y[::2, 1::3] = x[1::2, ::3]; return y",
    "set_tensor_idx": "y = x * 1; y[:, torch.tensor([5, 0])] = x[:, :2]; y[torch.tensor(1)] = 0; return y",
    "set_mixed": "y = x * 1; y[1:, torch.tensor([0, 1])] = 3.0; y[..., None, 2] = x[:, :1]; return y",
    "write_view": "y = x * 1; y.view(2, 12)[0, 3:7] = x[0, :4]; return y",
    "write_view_shape": "y = x * 1; v = y.view(-1); v.mul_(2); v[3] = 1; return (y, v)",
    "write_transpose": "y = x * 1; y.t()[1] = x[:, 0]; y.transpose(0, 1)[2:4].add_(1); return y",
    "write_permute": "y = (x * 1).view(2, 2, 6); y.permute(2, 0, 1)[3].mul_(4); y.permute(-1, 0, 1)[0].zero_(); return y",
    "write_select": "y = x * 1; y.select(1, -2).add_(1); y.select(-1, 0).mul_(2); return y",
    "write_chunk": "y = x * 1; a, b = y.chunk(2, dim=-1); a.mul_(b); b.add_(a); return (y, a, b)",
    "write_split": "y = x * 1; a, b = y.split([2, 4], 1); b.mul_(2); a.add_(b[:, :2]); return (y, a, b)",
    "write_split_int": "y = x * 1; a, b = y.split(4, -1); b.mul_(2); return (y, a, b)",
    "write_tensor_split": "y = x * 1; a, b, c, d = y.tensor_split(4, 1); c.mul_(2); d.add_(a[:, :1]); return (y, c)",
    "write_tensor_split_idx": "y = x * 1; a, b, c = y.tensor_split((1, 3), 1); c.mul_(2); b.add_(1); return (y, c)",
    "write_tensor_split_neg": "y = x * 1; a, b = y.tensor_split((-2,), 1); b.mul_(2); return (y, b)",
    "write_unbind": "y = x * 1; a, *_, b = y.unbind(-1); b.mul_(2); a.add_(b); return (y, a)",
    "write_diagonal": "y = x * 1; y.diagonal(1).mul_(3); y.diagonal().fill_(0); return y",
    "write_diag_batch": "y = (x * 1).view(2, 3, 4); y.diagonal(dim1=1, dim2=2).mul_(3); return y",
    "write_as_strided": "y = x * 1; y.as_strided((2, 3), (6, 2), 1).mul_(3); return y",
    "write_as_strided_of_view": "y = x * 1; y[1:].as_strided((2, 3), (6, 2), 7).mul_(3); return y",
    "write_unfold": "y = x * 1; y.unfold(1, 2, 2).mul_(3); return y",
    "write_narrow": "y = x * 1; y.narrow(1, 1, 2).mul_(3); y.narrow(1, -2, 2).add_(1); return y",
    "write_views_of_views": (
        "y = x * 1; v = y.view(2, 2, 6).transpose(1, 2)[:, 1:4]; v[0].mul_(2); w = v[..., 1]; "
        "w.add_(v[..., 0]); return (y, v, w)"
    ),
    "write_base_read_view": "y = x * 1; v = y[1:3]; y.mul_(2); return (v * 1, v)",
    "write_view_read_sibling": "y = x * 1; a = y[:2]; b = y[1:3]; a.mul_(2); c = b + 1; b.zero_(); return (a, b, c, y)",
    "write_base_twice": "y = x * 1; v = y.view(-1); y.add_(1); v.add_(1); y.mul_(v.view(4, 6)); return (v, y)",
    "unsqueeze_": "y = x * 1; y.unsqueeze_(0); y.mul_(2); y.squeeze_(0); return y",
    "unsqueeze_view": "y = x * 1; v = y[1]; y.unsqueeze_(0); y.mul_(2); return (y, v)",
    "unsqueeze_then_base": "y = x * 1; v = y.view(4, 6); v.unsqueeze_(1); y.mul_(3); return (v, y)",
    "t_": "y = x * 1; y.t_(); y[1] = 3; return y",
    "transpose_": "y = (x * 1).view(2, 2, 6); y.transpose_(0, 2); y[1].add_(1); return y",
    "squeeze_all": "y = (x * 1).view(1, 4, 6, 1); y.squeeze_(); y += 1; return y",
    "iadd_view": "y = x * 1; y[1] += x[0]; y[:, 2] *= 2; y[:2, :2] -= 1; y[0] /= 2; y[3] **= 2; return y",
    "swapaxes_": "y = x * 1; y.swapaxes_(0, 1); y[0] = 1; return y",
    "detach_": "y = x * 1; y.detach_(); y.add_(1); return y",
    "out_add": "o = torch.empty(4, 6); torch.add(x, x * 2, out=o); return o",
    "out_cat": "o = torch.empty(8, 6); torch.cat([x, x * 2], out=o); return o",
    "out_view": "o = torch.zeros(8, 6); torch.mul(x, 2, out=o[2:6]); return o",
    "out_mm": "o = torch.empty(4, 4); torch.mm(x, x.t(), out=o); return o",
    "out_max": "a = torch.empty(4); b = torch.empty(4, dtype=torch.long); torch.max(x, 1, out=(a, b)); return (a, b)",
    "out_sum": "o = torch.empty(4); torch.sum(x, 1, out=o); return o",
    "out_matmul": "o = torch.empty(4, 4); torch.matmul(x, x.t(), out=o); return o",
    "data_written": "y = x * 1; y.data.mul_(2); z = y.data; z[0] = 1; return (y, z)",
    "detached_written": "y = x * 1; y.detach().mul_(2); return y",
    "input_data": "x.data.mul_(2); return x + 1",
    "input_view": "x[0].mul_(2); v = x.view(-1); v.add_(1); return x",
    "expand_write": "y = x * 1; e = y[:1].expand(3, 6); y[0] = 2; return (e * 1, y)",
    "real_imag": (
        "c = torch.view_as_complex(x.view(4, 3, 2) * 1); r = torch.view_as_real(c); r[..., 0] = 0; "
        "return (r, c.abs())"
    ),
    "real_attr": "c = torch.complex(x, x * 2); c.real.mul_(2); c.imag[0] = 1; return torch.view_as_real(c)",
    "fft": "return torch.fft.irfft(torch.fft.rfft(x), n=6)",
    "view_as_other_dtype": "y = x * 1; i = y.view(torch.int32); i.bitwise_and_(2147483647); return y",
    "unflatten": "y = x * 1; y.unflatten(1, (2, 3))[:, 1].mul_(2); return y",
    "movedim": "y = (x * 1).view(2, 2, 6); y.movedim(0, -1)[0].mul_(2); y.moveaxis(2, 0)[1] = 0; return y",
    "swapdims": "y = x * 1; y.swapdims(0, 1)[0].mul_(2); y.mT[1] = 0; y.T[2] = 1; return y",
    "mH": "y = x * 1; y.mH[1] = 0; y.H[2] = 1; y.adjoint()[3] = 2; return y",
    "flatten_w": "y = (x * 1).view(2, 2, 6); y.flatten(1)[:, 3] = 0; y.ravel()[0] = 1; return y",
    "reshape_w": "y = x * 1; y.reshape(24)[3] = 1; y.t().reshape(24)[4] = 99; return y",
    "contiguous_w": "y = x * 1; y.contiguous().mul_(2); y.t().contiguous().mul_(5); return y",
    "to_w": "y = x * 1; y.to(torch.float32).mul_(2); y.float().add_(1); y.double().mul_(5); return y",
    "squeeze_dims": "y = (x * 1).view(4, 1, 6, 1); y.squeeze((1, 3)).mul_(2); y.squeeze(1)[0] = 1; return y",
    "hsplit": "y = x * 1; a, b = y.hsplit(2); a.mul_(2); c, d = y.vsplit(2); c.add_(1); return y",
    "unsafe_chunk": "y = x * 1; a, b = torch.unsafe_chunk(y, 2); a.mul_(2); return (y, a)",
    "view_as": "y = x * 1; y.view_as(x.view(4, 6)).mul_(2); return y",
    "expand_as_w": "y = x * 1; y.expand_as(x).mul_(2); y.expand(4, 6).add_(1); y.expand(-1, -1).add_(1); return y",
    "diag_embed": "y = torch.diag_embed(x); y[:, 0, 0] = 1; return y",
    "fill_diagonal_": "y = x * 1; y.fill_diagonal_(0); return y",
    "triu_": "y = x * 1; y.triu_(); y.tril_(1); return y",
    "lerp_": "y = x * 1; y.lerp_(x * 2, 0.3); y.addcmul_(x, x, value=0.5); y.addcdiv_(x, x * x + 1); return y",
    "addmm_": "y = torch.zeros(4, 4); y.addmm_(x, x.t()); return y",
    "baddbmm_": "y = torch.zeros(2, 2, 2); z = x.view(2, 2, 6); y.baddbmm_(z, z.mT); return y",
    "pow_": "y = x * 1; y.pow_(2); y.sqrt_(); y.exp_(); y.neg_(); y.sigmoid_(); y.tanh_(); return y",
    "masked_scatter_": "y = x * 1; y.masked_scatter_(x > 0, x * 3); return y",
    "put_": "y = x * 1; y.put_(torch.tensor([0, 5]), x[0, :2]); return y",
    "cumsum_": "y = x * 1; y.cumsum_(0); return y",
    "dropout_functional": "y = nn.functional.dropout(x * 1, 0.5, False, inplace=True); y.mul_(2); return y",
    "activations_in_place": (
        "y = nn.functional.leaky_relu(x * 1, inplace=True); y = nn.functional.silu(y, inplace=True); "
        "y = nn.functional.hardtanh(y, inplace=True); y = nn.functional.elu(y, inplace=True); "
        "y = nn.functional.relu6(y, inplace=True); y = nn.functional.hardswish(y, inplace=True); "
        "y = nn.functional.threshold(y, 0.1, 0.2, inplace=True); y = nn.functional.celu(y, inplace=True); "
        "y = nn.functional.selu(y, inplace=True); y = nn.functional.mish(y, inplace=True); "
        "y = nn.functional.hardsigmoid(y, inplace=True); return y"
    ),
    "normal_like": "y = x.new_empty(4, 6); y.copy_(x); z = torch.empty_like(x); z[:] = x; return (y, z)",
    "set_scalar_tensor": "y = x * 1; y[0, 0] = x.sum(); y[1:3] = x.mean(); return y",
    "foreach": "a = x * 1; b = x * 2; torch._foreach_add_([a, b], 1.0); return (a, b)",
    "set_": "y = x * 1; y.set_(x * 2); return y",
    "data_replaced": "y = x * 1; y.data = x * 2; return y + 1",
    "index_t": "i = x.argsort(1); return (x.gather(1, i), x[torch.arange(4), i[:, 0]], x.index_select(1, i[0]))",
    "squeeze_read": "y = x * 1; v = y.unsqueeze(0); v.mul_(2); return (y, v)",
    "self_overlap": "y = x * 1; y[1:] = y[:-1].clone(); y[:, 1:].add_(y[:, :-1].clone()); return y",
    "chained": "y = x * 1; y.add_(1).mul_(2).clamp_(0); return y",
    "addbroadcast": "y = x * 1; y.add_(x[0]); y[:, 0].add_(3); y.mul_(torch.tensor(2)); return y",
    "div_round": "y = x * 3; y.div_(2, rounding_mode='floor'); y.remainder_(2); y.floor_divide_(1); return y",
    "where_self": "y = x * 1; y.where(y > 0, y * 2); torch.where(x > 0, x, y, out=y); return y",
    "comparison_in_place": "y = x * 1; y.gt_(0); return y",
    "logical_in_place": "y = x > 0; y.logical_not_(); y.logical_or_(x > 1); return y",
    "copy_view_self": "y = x * 1; y.copy_(y.flip(0)); return y",
    "empty_view": "y = x * 1; y[0:0].add_(1); return y",
    "zerodim": "y = x.sum(); y.add_(1); y.mul_(x[0, 0]); return y",
    "detach_view_then_write": "y = x * 1; d = y.detach(); y.add_(1); return d",
    "copy_t_view": "y = torch.zeros(6, 4); y.copy_(x.t()); return (y.view(-1), y.view(2, 12))",
    "t_copy_view": "y = torch.zeros(6, 4); y.t().copy_(x); a = y.view(-1); a.add_(1); return (a, y)",
    "as_strided_after_write": (
        "y = torch.zeros(6, 4); y.copy_(x.t()); a = y.as_strided((2, 3), (4, 1), 1); a.add_(1); "
        "return (a, y, a * 2)"
    ),
    "view_stale": "y = torch.zeros(6, 4); v = y.view(24); y.copy_(x.t()); return (v * 1, v)",
    "copy_int": "y = torch.zeros(4, 6); y.copy_((x * 4).long()); return (y / 3, y)",
    "int_mixed": "y = (x * 4).int(); y.add_((x * 3).long()); y[0] = (x[0] * 5).long(); return y",
    "out_promote": (
        "o = torch.empty(4, 6, dtype=torch.float64); torch.mul((x * 3).long(), 2, out=o); "
        "torch.gt(x, 0, out=o[:4]); return o"
    ),
    "fill_dtype": "y = x * 1; y.fill_(x.double().sum()); return y",
    "dropout_in_place": "m = nn.Dropout(0.3, inplace=True).eval(); y = x * 1; m(y); y.add_(1); return y",
    "dropout2d_in_place": "m = nn.Dropout2d(0.3, inplace=True).eval(); y = (x * 1).view(1, 4, 6, 1); m(y); y.add_(1); return y",
    "squeeze_dims_in_place": "y = (x * 1).view(4, 1, 6, 1); y.squeeze_(1); y.squeeze_((2,)); y.mul_(2); return y",
    "real_of_real": "y = x * 1; y.real.mul_(2); y.conj().add_(1); return y",
    "sort_out": (
        "a = torch.empty(4, 6); b = torch.empty(4, 6, dtype=torch.long); torch.sort(x, 1, out=(a, b)); "
        "a.add_(1); return (a, b)"
    ),
    "split_neg_dim": (
        "y = x * 1; a, b = y.split(2, -2); b.mul_(2); y.chunk(2, -1)[1].add_(1); "
        "y.tensor_split(2, -1)[0].mul_(3); y.unbind(-2)[1].mul_(2); return y"
    ),
    "slice_neg": "y = x * 1; y[-3:-1].mul_(2); y[:, -100:2].add_(1); y[:, 4:100] = 0; return y",
    "vmap": "return torch.vmap(lambda r: torch.softmax(r, 0) * r.sum())(x)",
    "einsum": "return (torch.einsum('ij,kj->ik', x, x), torch.einsum('ij->j', x))",
    "constant_written": "c = torch.arange(6.0); c[0] = 9; c.mul_(x[0]); return c + x",
    "new_constant_written": "c = torch.tensor([1.0, 2.0]); c[0] = x.sum(); return c * x[0, :2]",
    "idx_rows_write": (
        "y = x * 1; r = torch.arange(4); y[r, x.argmax(1)] = 0; y[r, 0] += x[:, 1]; y[r] *= 2; return y"
    ),
    "mask_read_and_write": "y = x * 1; m = y > 0; y[m] *= 2; y[~m] += 1; return y",
}
