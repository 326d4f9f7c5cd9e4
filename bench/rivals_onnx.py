# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, if it is installed: one session per stack, one node per expert, rows of each expert as its input. Its
instructions cannot be capped, so a capped process leaves it out where the machine has more."""
import judge
import numpy as np
import torch
from machine import has_flag
from rivals_torch import BARE, FUSED, SCALED, finish, unsigned

try:
    import onnx
    import onnxruntime
    MISSING = ""
except ImportError as error:
    MISSING = str(error)

SLICES = (16, 32, 64, 128, 256)  # what MatMulNBits has


def session_of(nodes, inputs, weights, *constants):
    """A session whose weights stay where they are: `weights` (name, array, type)."""
    initializers, names, values = list(constants), [], []
    for name, array, kind in weights:
        outside = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        outside.data_location = onnx.TensorProto.EXTERNAL
        outside.external_data.add(key="location", value="memory")
        initializers.append(outside)
        names.append(name)
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for node in nodes for name in node.output]
    graph = onnx.helper.make_graph(nodes, "experts", inputs, outputs, initializers)
    versions = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its threads would disturb who comes next
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Experts:
    """What the operators share: rows of an expert go in as x<expert>, y<expert> comes out."""

    def run_experts(self, tokens, x):
        groups = list(tokens.groups())
        feeds = dict(self.idle)
        feeds.update({f"x{expert}": x[begin:end] for expert, begin, end in groups})
        return self.session.run([f"y{expert}" for expert, _, _ in groups], feeds)


class MatMulInteger(Experts):
    """ONNX Runtime MatMulInteger: u8 tokens (zero point 128) times s8 weights to int32; nothing behind the product."""

    complete = False

    def __init__(self, stack, data):
        self.stack, self.data = stack, data
        self.name = f"ONNX Runtime {onnxruntime.__version__}" + (" + ops" if self.complete else "")
        self.kernel = "MatMulInteger"
        self.fused = FUSED[stack.operator] if self.complete else BARE
        if not hasattr(data, "integer_session"):  # shared by the bare and the complete form
            kinds, e = onnx.TensorProto, range(stack.experts)
            data.integer_session = session_of(
                [onnx.helper.make_node("MatMulInteger", [f"x{i}", f"w{i}", "zero"], [f"y{i}"]) for i in e],
                [onnx.helper.make_tensor_value_info(f"x{i}", kinds.UINT8, [None, stack.k]) for i in e],
                [(f"w{i}", data.weight[i].numpy(), kinds.INT8) for i in e],
                onnx.helper.make_tensor("zero", kinds.UINT8, [], [128]))
        self.session = data.integer_session
        self.idle = {f"x{i}": np.empty((0, stack.k), np.uint8) for i in range(stack.experts)}

    def prepare(self, tokens):
        tokens.x_numpy = unsigned(tokens.x).numpy()

    def run(self, tokens):
        sums = self.run_experts(tokens, tokens.x_numpy)
        if not self.complete:
            return sums
        return [finish(self.stack.operator, torch.from_numpy(sum_).float() * self.data.scale[expert],
                       tokens.x_scale[begin:end]) for sum_, (expert, begin, end) in zip(sums, tokens.groups())]

    def verdict(self, tokens, results):
        sums = self.run_experts(tokens, tokens.x_numpy)
        by_expert = {expert: torch.from_numpy(sum_) for sum_, (expert, _, _) in zip(sums, tokens.groups())}
        return judge.equals_sums(tokens, self.data, lambda expert, x: by_expert[expert])


class MatMulIntegerOps(MatMulInteger):
    """ONNX Runtime MatMulInteger, with the rest of the operator in torch operations: see MatMulInteger."""

    complete = True


class MatMulNBits(Experts):
    """ONNX Runtime MatMulNBits: fp32 tokens, quantised to int8 by blocks inside the call, times int4 weights, to fp32."""

    def __init__(self, stack, data):
        self.data, self.fused = data, "quant by blocks+" + SCALED
        self.name, self.kernel = f"ONNX Runtime {onnxruntime.__version__}", "MatMulNBits, accuracy level 4"
        kinds, e, n = onnx.TensorProto, range(stack.experts), stack.n
        blocks = stack.k // stack.slice
        attributes = dict(K=stack.k, N=n, bits=4, block_size=stack.slice, accuracy_level=4, domain="com.microsoft")

        def packed(expert):
            nibbles = (data.integers(expert).t().contiguous() + 8).view(torch.uint8)  # [n, k], zero point 8
            return (nibbles[:, ::2] | nibbles[:, 1::2] << 4).view(n, blocks, stack.slice // 2).numpy()

        self.session = session_of(
            [onnx.helper.make_node("MatMulNBits", [f"x{i}", f"w{i}", f"s{i}"], [f"y{i}"], **attributes) for i in e],
            [onnx.helper.make_tensor_value_info(f"x{i}", kinds.FLOAT, [None, stack.k]) for i in e],
            [*((f"w{i}", packed(i), kinds.UINT8) for i in e),
             *((f"s{i}", data.scale[i].t().contiguous().view(n * blocks).numpy(), kinds.FLOAT) for i in e)])
        self.idle = {f"x{i}": np.empty((0, stack.k), np.float32) for i in e}

    def prepare(self, tokens):
        tokens.x_numpy = tokens.x.float().numpy()

    def run(self, tokens):
        return self.run_experts(tokens, tokens.x_numpy)

    def verdict(self, tokens, results):
        t = torch.empty(len(tokens.x), results[0].shape[1])
        for result, (_, begin, end) in zip(results, tokens.groups()):
            t[begin:end] = torch.from_numpy(result)
        return judge.equals_scaled(tokens, self.data, t)


class QMoE:
    """ONNX Runtime QMoE: routing, gate, up, SwiGLU and down projection of fp32 tokens, in products of fp32."""

    mac_factor = 1.5  # k n and k n / 2

    def __init__(self, stack, data):
        self.data, self.name, self.kernel = data, f"ONNX Runtime {onnxruntime.__version__}: QMoE", "QMoE, 8 bits"
        self.fused = "routing+whole feed-forward layer"
        kinds, e, h = onnx.TensorProto, stack.experts, stack.n // 2
        rows = torch.stack([w.t().contiguous() for w in data.weight])  # [e, n, k]
        both = unsigned(rows.view(e, 2, h, stack.k).transpose(1, 2).contiguous())  # gate and up rows in turn
        down = unsigned(rows[:, :h].transpose(1, 2).contiguous())
        scales = data.scale.view(e, 2, h).transpose(1, 2).contiguous().view(e, 2 * h)
        node = onnx.helper.make_node(
            "QMoE", ["x", "router", "w1", "s1", "", "w2", "s2"], ["y"], domain="com.microsoft", k=1, expert_weight_bits=8,
            activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, activation_alpha=1.0,
            activation_beta=0.0)
        self.session = session_of(
            [node], [onnx.helper.make_tensor_value_info("x", kinds.FLOAT, [None, stack.k]),
                     onnx.helper.make_tensor_value_info("router", kinds.FLOAT, [None, e])],
            [("w1", both.view(e, 2 * h, stack.k).numpy(), kinds.UINT8), ("s1", scales.numpy(), kinds.FLOAT),
             ("w2", down.numpy(), kinds.UINT8), ("s2", np.full((e, stack.k), 2.0**-14, np.float32), kinds.FLOAT)])

    def prepare(self, tokens):
        experts = torch.repeat_interleave(torch.arange(len(tokens.counts)), tokens.counts)
        router = torch.full((len(experts), len(tokens.counts)), -50.0)
        router[torch.arange(len(experts)), experts] = 50.0
        tokens.moe = {"x": tokens.x.float().numpy(), "router": router.numpy()}

    def run(self, tokens):
        return self.session.run(None, tokens.moe)

    def verdict(self, tokens, results):
        return judge.layer_error(tokens, self.data, torch.from_numpy(results[0]), weight_scaled=True)


def rivals(stack, capped, thorough, notes):
    """`notes` gets a sentence where there are none."""
    if stack.operator in ("B", "quant"):
        return []
    if MISSING:
        notes.append(f"ONNX Runtime: left out: {MISSING}")
        return []
    if capped and has_flag("avx512f"):
        notes.append("ONNX Runtime: left out: its instructions cannot be capped")
        return []
    if stack.weights == "int8":
        whole = thorough and stack.operator == "A" and stack.distribution == "sigma20" and not stack.offset
        layer = [QMoE] if whole else []  # of one distribution, as kt-kernel
        return [MatMulInteger, MatMulIntegerOps, *layer]
    return [MatMulNBits] if stack.slice in SLICES else []
