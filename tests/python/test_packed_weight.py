# SPDX-License-Identifier: Apache-2.0
"""PackedWeight: what it knows, the ways it is saved and copied, spoilt bytes, compiled and exported calls."""
import copy
import io
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import agree
import cases
import qgmm


def packed_forms(rng):
    weights = cases.int8(rng, 2, 24, 16), cases.int4(rng, 2, 24, 16)
    return [qgmm.pack_weight(weight, swiglu=swiglu) for weight in weights for swiglu in (False, True)]


def assert_same_packed(got, wanted):
    assert isinstance(got, qgmm.PackedWeight)
    assert got.integers == wanted.integers and (got.dtype, got.swiglu) == (wanted.dtype, wanted.swiglu)
    assert torch.equal(got.data, wanted.data)


def test_packed_weight_knows_what_it_is(rng):
    kinds = [(p.dtype, p.swiglu, p.e, p.k, p.n, p.device, p.data.dtype, p.data.dim()) for p in packed_forms(rng)]
    assert kinds == [(dtype, swiglu, 2, 24, 16, torch.device("cpu"), torch.uint8, 1)
                     for dtype in ("int8", "int4") for swiglu in (False, True)]


def test_unpack_gives_the_weights_back(rng):
    for weight in (cases.int8(rng, 3, 21, 18), cases.int4(rng, 3, 21, 24)):
        for swiglu in (False, True):
            plain = qgmm.pack_weight(weight, swiglu=swiglu).unpack()
            assert plain.dtype == weight.dtype and torch.equal(plain, weight)


@pytest.mark.parametrize("weights_only", [True, False])
def test_packed_weight_in_torch_save(rng, weights_only):
    for packed in packed_forms(rng):
        file = io.BytesIO()
        torch.save({"experts": packed, "bytes": packed.data}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=weights_only)
        assert_same_packed(loaded["experts"], packed)
        assert_same_packed(qgmm.PackedWeight.from_data(loaded["bytes"]), packed)


def test_packed_weight_in_pickle_and_copy(rng):
    for packed in packed_forms(rng):
        assert_same_packed(pickle.loads(pickle.dumps(packed)), packed)
        deep = copy.deepcopy(packed)
        assert_same_packed(deep, packed)
        assert deep.data.data_ptr() != packed.data.data_ptr() and copy.copy(packed).data is packed.data


def test_packed_bytes_in_a_state_dict(rng):
    packed = qgmm.pack_weight(cases.int8(rng, 2, 24, 16))
    module, other = torch.nn.Module(), torch.nn.Module()
    module.register_buffer("experts", packed.data)
    other.register_buffer("experts", torch.zeros_like(packed.data))
    other.load_state_dict(module.state_dict())
    assert_same_packed(qgmm.PackedWeight.from_data(other.experts), packed)


def test_packed_bytes_at_an_odd_address(rng):
    args = cases.swiglu(rng, m=9, k=40, n=48)
    packed = qgmm.pack_weight(args[1], swiglu=True)
    odd = torch.empty(packed.data.numel() + 1, dtype=torch.uint8)[1:]
    odd.copy_(packed.data)
    got = qgmm.grouped_matmul_swiglu_quant(args[0], qgmm.PackedWeight.from_data(odd), *args[2:])
    agree.assert_same_bits(got, qgmm.grouped_matmul_swiglu_quant(*args), "an odd address")


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-1], lambda data: data[:63], lambda data: data[:0], lambda data: data.to(torch.int8),
    lambda data: data.repeat_interleave(2)[::2], lambda data: data.reshape(1, -1), lambda data: data.to("meta"),
    lambda data: torch.cat([data[:1] ^ 255, data[1:]]),
    lambda data: torch.cat([data[:16], data[16:24] ^ 255, data[24:]]), lambda data: None,
], ids=["a byte short", "half a header", "empty", "int8", "strided", "two dimensions", "meta", "magic", "e", "None"])
def test_bytes_that_are_no_packed_weight(rng, spoil):
    data = qgmm.pack_weight(cases.int8(rng, 2, 24, 16)).data
    with pytest.raises(ValueError, match=r"^\[PackedWeight\] .*must"):
        qgmm.PackedWeight.from_data(spoil(data))


def test_bytes_changed_after_packing_are_refused_by_the_call(rng):
    args = cases.swiglu(rng)
    packed = qgmm.pack_weight(args[1], swiglu=True)
    packed.data[24:32] = 255
    with pytest.raises(ValueError, match=r"^\[grouped_matmul_swiglu_quant\] weight must"):
        qgmm.grouped_matmul_swiglu_quant(args[0], packed, *args[2:])


def test_layers_with_weights_of_one_size_share_a_graph(rng):
    counter = CompileCounterWithBackend("eager")

    @torch.compile(backend=counter, fullgraph=True)
    def call(x, weight, scale, x_scale, group_list):
        return qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)

    for _ in range(3):
        x, weight, *rest = cases.swiglu(rng)
        call(x, qgmm.pack_weight(weight, swiglu=True), *rest)
    assert counter.frame_count == 1


def test_packed_weight_is_a_pytree_and_exports(rng):
    args = cases.swiglu(rng)
    packed = qgmm.pack_weight(args[1], swiglu=True)

    class Layer(torch.nn.Module):
        def forward(self, x, weight, scale, x_scale, group_list):
            return qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)

    inputs = (args[0], packed, *args[2:])
    exported = torch.export.export(Layer(), inputs)
    agree.assert_same_bits(exported.module()(*inputs), qgmm.grouped_matmul_swiglu_quant(*args), "exported")


def test_certificates_change_no_weight_and_no_result(rng):
    for limit in (16, 128):  # small weights keep every promise, any weights hardly one
        args = [*cases.swiglu(rng, 3, 40, 70, 64)]
        weight = args[1] = args[1] // (128 // limit)
        want = qgmm.grouped_matmul_swiglu_quant(*args)
        packed = qgmm.pack_weight(weight, swiglu=True, certify=False)
        assert torch.equal(packed.certified(True).certified(False).data, packed.data)
        assert torch.equal(packed.certified(True).data, qgmm.pack_weight(weight, swiglu=True, certify=True).data)
        for form in (packed, packed.certified(True), packed.certified()):
            assert torch.equal(form.unpack(), weight)
            got = qgmm.grouped_matmul_swiglu_quant(args[0], form, *args[2:])
            assert all(torch.equal(one, other) for one, other in zip(got, want))


def test_certificates_are_counted(rng):
    small, any_int8 = cases.int8(rng, 2, 70, 96) // 8, cases.int8(rng, 2, 70, 96)
    counts = qgmm.pack_weight(small, certify=True).certificates()
    assert counts == {"none": 0, "pairs": 0, "quads": 2 * 6, "residual_share": 0.0}
    assert qgmm.pack_weight(small, certify=False).certificates()["none"] == 2 * 6
    assert qgmm.pack_weight(any_int8, certify=True).certificates()["none"] == 2 * 6
    small[0, 3, 5], small[0, 2, 5] = 127, 127  # one lane of one panel: 254, which one entry of 126 repairs
    counts = qgmm.pack_weight(small, certify=True).certificates()
    assert counts["quads"] == 2 * 6 and 1 <= counts["residual_share"] * small.numel() <= 3


def test_operator_b_says_that_it_has_no_use_for_certificates(rng):
    (x, weight, scale), options = cases.weight_quant(rng, k=128, n=64)
    for certify in (True, False):
        packed = qgmm.pack_weight(weight, certify=certify)
        notes = qgmm.explain(qgmm.weight_quant_grouped_matmul, x, packed, scale, **options)["notes"]
        assert any("certify=False" in note for note in notes) == certify


def test_certify_refusals(rng):
    int8, int4 = cases.int8(rng, 2, 24, 16), cases.int4(rng, 2, 24, 16)
    with pytest.raises(ValueError, match=r"^\[pack_weight\] certify must be True, False or None; got 1$"):
        qgmm.pack_weight(int8, certify=1)
    with pytest.raises(ValueError, match=r"^\[pack_weight\] certify must not be True for int4 weights"):
        qgmm.pack_weight(int4, certify=True)
    with pytest.raises(ValueError, match=r"^\[PackedWeight\] certify must not be True for int4 weights"):
        qgmm.pack_weight(int4).certified(True)
    with pytest.raises(ValueError, match=r"^\[PackedWeight\] certify must be True, False or None; got 'yes'$"):
        qgmm.pack_weight(int8).certified("yes")
