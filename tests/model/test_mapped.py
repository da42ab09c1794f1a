"""A file of weights is mapped once, however many tensors lie in it."""

from __future__ import annotations

import mmap
import threading

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.model import mapped, open_model


@pytest.fixture
def stored(tmp_path):
    """Return the path of a model with 40 weights in a file of their own, and the weights."""
    generator = np.random.default_rng(0)
    weights = {f"w{n}": generator.normal(size=(16, 16)).astype(np.float32) for n in range(40)}
    weights["h"] = generator.normal(size=(16, 16)).astype(np.float16)
    body = " ".join(f"y{n} = MatMul (x, w{n})" for n in range(40))
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,16] y0, float[N,16] z) {{
        {body} f = Cast <to = 1> (h) z = MatMul (x, f) }}""",
        **weights,
    )
    onnx.save_model(
        ir.to_proto(model),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    return tmp_path / "m.onnx", weights


def test_it_is_mapped_once(stored, monkeypatch):
    path, weights = stored
    maps = []

    class Counting:
        ACCESS_READ = mmap.ACCESS_READ

        @staticmethod
        def mmap(*arguments, **options):
            maps.append(arguments)
            return mmap.mmap(*arguments, **options)

    monkeypatch.setattr(mapped, "mmap", Counting)
    model = open_model(path)
    for name, array in weights.items():
        tensor = model.graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor), "it stays on disk"
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.tobytes() == array.tobytes()
        assert not tensor.numpy().flags.writeable
    assert len(maps) == 1


def test_a_copy_shares_it_and_the_proto_points_there(stored):
    path, weights = stored
    model = open_model(path).clone()
    proto = ir.to_proto(model)
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    model.graph.initializers["w3"].const_value.release()
    np.testing.assert_array_equal(model.graph.initializers["w3"].const_value.numpy(), weights["w3"])


def test_pages_are_released_while_other_threads_map_files(stored):
    path, _ = stored
    failed = []

    def map_files():
        try:
            for _ in range(300):
                open_model(path).graph.initializers["w0"].const_value.numpy()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=map_files) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        mapped.release_pages()
    assert not failed
