# SPDX-License-Identifier: Apache-2.0
"""One weight in every form it may have: always the same bits. And tokens with any strides."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import agree
import cases
import golden_formats
import qgmm

E, M, K, N = 3, 14, 45, 40


def contiguous(w):
    return w.contiguous()


def transposed_view(w):
    return w.transpose(-1, -2).contiguous().transpose(-1, -2)


def permuted_strides(w):
    return w.permute(2, 0, 1).contiguous().permute(1, 2, 0)


def sliced_storage(w):
    wide = torch.full((w.shape[0] + 1, w.shape[1] + 3, 2 * w.shape[2] + 5), 91, dtype=w.dtype)
    view = wide[1:, 2:-1, 4:-1:2]
    view.copy_(w)
    assert not view.is_contiguous() and view.storage_offset() > 0
    return view


def list_of_one(w):
    return [w]


def list_of_experts(w):
    return [w[0], w[1].t().contiguous().t(), sliced_storage(w[2:])[0]]


PLAIN = [contiguous, transposed_view, permuted_strides, sliced_storage]
LISTS = [list_of_one, list_of_experts]


def packed(w, swiglu):
    return qgmm.pack_weight(w, swiglu=swiglu)


def packed_reloaded(w, swiglu):
    buffer = io.BytesIO()
    torch.save(qgmm.pack_weight(w, swiglu=swiglu), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def packed_from_a_list(w, swiglu):
    return qgmm.pack_weight(list_of_experts(w), swiglu=swiglu)


def packed_from_a_transposed_view(w, swiglu):
    return qgmm.pack_weight(transposed_view(w), swiglu=swiglu)


def packed_pickled(w, swiglu):
    return pickle.loads(pickle.dumps(qgmm.pack_weight(w, swiglu=swiglu)))


def packed_copied(w, swiglu):
    return copy.deepcopy(copy.copy(qgmm.pack_weight(w, swiglu=swiglu)))


def packed_from_data(w, swiglu):
    return qgmm.PackedWeight.from_data(qgmm.pack_weight(w, swiglu=swiglu).data.clone())


def packed_at_an_odd_address(w, swiglu):
    data = qgmm.pack_weight(w, swiglu=swiglu).data
    shifted = torch.empty(data.numel() + 1, dtype=torch.uint8)[1:]
    shifted.copy_(data)
    assert shifted.data_ptr() % 2 == 1
    return qgmm.PackedWeight.from_data(shifted)


PACKED = [
    packed,
    packed_reloaded,
    packed_from_a_list,
    packed_from_a_transposed_view,
    packed_pickled,
    packed_copied,
    packed_from_data,
    packed_at_an_odd_address,
]


def nz(w, swiglu, transposed=False):
    values = cases.as_values(w)
    if w.dtype == torch.int32:
        storage = torch.from_numpy(golden_formats.nibbles_to_bytes(golden_formats.to_nz(values, 64, transposed)))
        return qgmm.from_fractal_nz(storage, K, N, "int4", transposed=transposed)
    return qgmm.from_fractal_nz(
        torch.from_numpy(golden_formats.to_nz(values, 32, transposed)), K, N, torch.int8, transposed=transposed
    )


def nz_int8_nz_int4_nz_padded(w, swiglu):
    return nz(w, swiglu)  # K = 45 and N = 40 are padded in both axes


def nz_transposed(w, swiglu):
    return nz(w, swiglu, transposed=True)


FORMS = PLAIN + LISTS + PACKED + [nz_int8_nz_int4_nz_padded, nz_transposed]


def form_of(make, w, swiglu):
    return make(w) if make in PLAIN + LISTS else make(w, swiglu)


@pytest.mark.parametrize("bits", [8, 4], ids=["int8", "int4"])
@pytest.mark.parametrize("slices", [0, 5])
@pytest.mark.parametrize("make", FORMS, ids=lambda f: f.__name__)
def test_operator_a(rng, make, bits, slices):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, e=E, m=M, k=K, n=N, bits=bits, slices=slices)
    mode = int(slices > 0)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, dequant_mode=mode)
    form = form_of(make, weight, True)
    scale_form = [scale[i] for i in range(E)] if make is list_of_experts else scale
    got = agree.check_swiglu(x, form, scale_form, x_scale, group_list, dequant_mode=mode, weight=weight)
    agree.assert_same_bits(got, want, make.__name__)


@pytest.mark.parametrize("make", [f for f in FORMS if f not in LISTS], ids=lambda f: f.__name__)
def test_operator_b(rng, make):
    args, options = cases.weight_quant(rng, e=E, m=M, k=K, n=N)
    want = qgmm.weight_quant_grouped_matmul(*args, **options)
    form = form_of(make, args[1], False)
    got = agree.check_weight_quant(args[0], form, args[2], weight=args[1], **options)
    agree.assert_same_bits(got, want, make.__name__)


@pytest.mark.parametrize("bits", [8, 4], ids=["int8", "int4"])
@pytest.mark.parametrize("make", FORMS, ids=lambda f: f.__name__)
def test_grouped_matmul(rng, make, bits):
    args, options = cases.grouped(rng, e=E, m=M, k=K, n=N, bits=bits)
    want = qgmm.grouped_matmul(*args, **options)
    form = form_of(make, args[1], False)
    scale = [args[2][i] for i in range(E)] if make is list_of_experts else args[2]
    got = agree.check_grouped(args[0], form, scale, args[3], weight=args[1], **options)
    agree.assert_same_bits(got, want, make.__name__)


def test_a_list_of_one_and_the_bare_tensor_are_interchangeable(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, e=E)
    assist = cases.uniform(rng, E, 16)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, weight_assist_matrix=assist)
    for w in (weight, [weight], (weight,)):
        for s in (scale, [scale]):
            for a in (assist, [assist]):
                got = qgmm.grouped_matmul_swiglu_quant(x, w, s, x_scale, group_list, weight_assist_matrix=a)
                agree.assert_same_bits(got, want, "list of one")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("slices", [0, 4])
def test_list_of_the_only_expert(rng, bits, slices):
    x, weight, scale, *rest = cases.swiglu(rng, e=1, k=48, bits=bits, slices=slices)
    mode, assist = int(slices > 0), cases.uniform(rng, 1, 16)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, *rest, weight_assist_matrix=assist, dequant_mode=mode)
    got = qgmm.grouped_matmul_swiglu_quant(
        x, [weight[0]], [scale[0]], *rest, weight_assist_matrix=[assist[0]], dequant_mode=mode
    )
    agree.assert_same_bits(got, want, "a list of one [k, n]")
    packed = qgmm.pack_weight([weight[0]], swiglu=True)
    got = qgmm.grouped_matmul_swiglu_quant(x, packed, scale, *rest, weight_assist_matrix=assist, dequant_mode=mode)
    agree.assert_same_bits(got, want, "packed from a list of one [k, n]")
    down = qgmm.grouped_matmul(x, [weight[0]], [scale[0]], rest[1], dequant_mode=mode)
    agree.assert_same_bits(
        down, qgmm.grouped_matmul(x, weight, scale, rest[1], dequant_mode=mode), "a list of one [k, n]"
    )


def test_list_of_experts_with_slices(rng):
    x, weight, scale, *rest = cases.swiglu(rng, e=E, k=48, slices=4, bits=4)
    agree.check_swiglu(x, list(weight), list(scale), *rest, dequant_mode=1)


def row_strided_x(x):
    wide = torch.full((x.shape[0], 3 * x.shape[1] + 1), 77, dtype=x.dtype)
    wide[:, 1 : x.shape[1] + 1] = x
    return wide[:, 1 : x.shape[1] + 1]


def column_strided_x(x):
    return x.t().contiguous().t()


def every_other_row(x):
    return torch.stack([x, x], 1).reshape(-1, x.shape[1])[::2]


STRIDED = [row_strided_x, column_strided_x, every_other_row]


@pytest.mark.parametrize("make", STRIDED, ids=lambda f: f.__name__)
def test_strided_x(rng, make):
    x, *rest = cases.swiglu(rng, m=M, k=K)
    agree.assert_same_bits(
        agree.check_swiglu(make(x), *rest), qgmm.grouped_matmul_swiglu_quant(x, *rest), make.__name__
    )
    (x, *rest), options = cases.weight_quant(rng, m=M, k=K)
    agree.assert_same_bits(
        agree.check_weight_quant(make(x), *rest, **options),
        qgmm.weight_quant_grouped_matmul(x, *rest, **options),
        make.__name__,
    )


def test_expanded_x(rng):
    x, *rest = cases.swiglu(rng, m=M, k=K)
    agree.check_swiglu(x[:1].expand(M, K), *rest)
    agree.check_swiglu(x[:, :1].expand(M, K), *rest)
    (x, *rest), options = cases.weight_quant(rng, m=M, k=K)
    agree.check_weight_quant(x[:1].expand(M, K), *rest, **options)


def test_every_other_argument_with_strides(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, e=E, m=M, k=K, n=N)
    smooth, assist = cases.uniform(rng, E, N // 2), cases.uniform(rng, E, N)
    bias = torch.from_numpy(rng.integers(-999, 999, (E, N), dtype=np.int32))
    want = agree.check_swiglu(
        x, weight, scale, x_scale, group_list, smooth_scale=smooth, weight_assist_matrix=assist, bias=bias
    )
    spread = lambda t: torch.stack([t, torch.full_like(t, 7)], -1)[..., 0]  # noqa: E731
    turned = lambda t: t.t().contiguous().t()  # noqa: E731
    for make in (spread, turned):
        got = agree.check_swiglu(
            x,
            weight,
            make(scale),
            spread(x_scale),
            spread(group_list),
            smooth_scale=make(smooth),
            weight_assist_matrix=make(assist),
            bias=make(bias),
        )
        agree.assert_same_bits(got, want, "strided arguments")
    (x, weight, scale), options = cases.weight_quant(rng, e=E, m=M, k=K, n=N)
    want = agree.check_weight_quant(x, weight, scale, **options)
    options = {name: spread(t) for name, t in options.items()}
    agree.assert_same_bits(agree.check_weight_quant(x, weight, turned(scale), **options), want, "strided arguments")


def test_expanded_weight_and_scale(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, e=E, m=M, k=K, n=N)
    agree.check_swiglu(x, weight[:1].expand(E, K, N), scale[:1].expand(E, N), x_scale[:1].expand(M), group_list)


def far_apart(t):
    """The same values with the first axis 2^31 + 8 elements apart; NumPy's zeros cost nothing until they are touched."""
    step = 2**31 + 8
    room = torch.from_numpy(np.zeros(step * (t.shape[0] - 1) + t[0].numel(), t.numpy().dtype))
    view = room.as_strided(t.shape, (step, *t[0].contiguous().stride()))
    view.copy_(t)
    return view


def test_offsets_beyond_32_bits(rng):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=2, m=2, k=24, n=16)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, [1, 2])
    got = agree.check_swiglu(far_apart(x), far_apart(weight), scale, x_scale, torch.tensor([1, 2]))
    agree.assert_same_bits(got, want, "rows and experts 2 GiB apart")
    got = qgmm.grouped_matmul_swiglu_quant(x, qgmm.pack_weight(far_apart(weight), swiglu=True), scale, x_scale, [1, 2])
    agree.assert_same_bits(got, want, "packed from experts 2 GiB apart")


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weight_knows_itself(rng, bits, swiglu):
    weight = cases.int8(rng, E, K, N) if bits == 8 else cases.int4(rng, E, K, N)
    one = qgmm.pack_weight(weight, swiglu=swiglu)
    assert (one.e, one.k, one.n) == (E, K, N) and one.dtype == f"int{bits}" and one.swiglu is swiglu
    assert one.data.dtype == torch.uint8 and torch.device(one.device).type == "cpu"
    for other in (
        packed_reloaded(weight, swiglu),
        packed_pickled(weight, swiglu),
        qgmm.PackedWeight.from_data(one.data),
    ):
        assert (other.e, other.k, other.n, other.dtype, other.swiglu, other.layout) == (
            one.e,
            one.k,
            one.n,
            one.dtype,
            one.swiglu,
            one.layout,
        )
        assert torch.equal(other.data, one.data)


@pytest.mark.parametrize("damage", ["empty", "short", "cut", "header", "wrong dtype", "two dimensions"])
def test_bytes_that_are_no_packed_weight_are_refused(rng, damage):
    data = qgmm.pack_weight(cases.int8(rng, 1, 8, 8), swiglu=False).data
    broken = {
        "empty": data[:0],
        "short": data[:7],
        "cut": data[:-1],
        "header": torch.cat([data[:1] ^ 255, data[1:]]),
        "wrong dtype": data.view(torch.int8),
        "two dimensions": data[None],
    }[damage]
    with pytest.raises(ValueError, match=r"^\["):
        qgmm.PackedWeight.from_data(broken)


def test_weight_of_a_module(rng):
    """A PackedWeight in a state_dict and back."""
    weight = cases.int8(rng, 2, 24, 16)
    one = qgmm.pack_weight(weight, swiglu=True)
    buffer = io.BytesIO()
    torch.save({"experts": one, "raw": one.data}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    args = cases.swiglu(rng)
    want = qgmm.grouped_matmul_swiglu_quant(args[0], weight, *args[2:])
    for form in (loaded["experts"], qgmm.PackedWeight.from_data(loaded["raw"])):
        agree.assert_same_bits(qgmm.grouped_matmul_swiglu_quant(args[0], form, *args[2:]), want, "from a state_dict")
