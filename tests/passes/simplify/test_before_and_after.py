"""Before and after, as text."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.simplify import Simplify
from story import check

f32 = np.float32
CASES = {
    "identities and dead nodes": (
        """(float[N] x) => (float[N] y) { a = Identity (x)  b = Identity (a)  dead = Neg (b)  y = Relu (b) }""",
        {},
        "y = Relu (x)",
    ),
    "an identity between input and output stays": (
        "(float[N] x) => (float[N] y) { a = Identity (x)  y = Identity (a) }",
        {},
        "y = Identity (x)",
    ),
    "equal nodes": (
        "(float[N] x) => (float[N] y) { a = Relu (x)  b = Relu (x)  y = Sub (a, b) }",
        {},
        "a = Relu (x)\ny = Sub (a, a)",
    ),
    "equal nodes of which one writes a default out": (
        """(float[N,4] x, float[1,1,8,8] z) => (float[4,N] y, float[1,1,7,7] u) {
            a = Transpose (x)  b = Transpose <perm = [1,0]> (x)  y = Sub (a, b)
            p = MaxPool <kernel_shape = [2,2]> (z)
            q = MaxPool <kernel_shape = [2,2], strides = [1,1], pads = [0,0,0,0], storage_order = 0> (z)
            u = Sub (p, q) }""",
        {},
        "y/turned = Sub (x, x)\ny = Transpose <perm = (1, 0)> (y/turned)\n"
        "p = MaxPool <kernel_shape = (2, 2)> (z)\nu = Sub (p, p)",
    ),
    "nodes of which one has an output that the other lacks": (
        """(float[4,N] x) => (float[2,N] y, int64[2,N] z) {
            , i = TopK <axis = 0> (x, two)  a, j = TopK <axis = 0> (x, two)  y = Relu (a)  z = Add (i, j) }""",
        {"two": np.array([2])},
        "_, i = TopK <axis = 0> (x, [2])\na, j = TopK <axis = 0> (x, [2])\ny = Relu (a)\nz = Add (i, j)",
    ),
    "random nodes are never equal": (
        "(float[N] x) => (float[N] y) { a = RandomNormalLike (x)  b = RandomNormalLike (x)  y = Sub (a, b) }",
        {},
        "a = RandomNormalLike (x)\nb = RandomNormalLike (x)\ny = Sub (a, b)",
    ),
    "two outputs keep their names": (
        "(float[N] x) => (float[N] y, float[N] z) { y = Relu (x)  z = Relu (x) }",
        {},
        "y = Relu (x)\nz = Relu (x)",
    ),
    "a branch that is always taken": (
        """(float[N] x, bool c) => (float[N] y) {
            t = Constant <value = bool {1}> ()
            y = If (t) <
                then_branch = t () => (float[N] p) { a = Relu (x)  p = Neg (a) },
                else_branch = e () => (float[N] q) { q = Exp (x) }
            > }""",
        {},
        "a = Relu (x)\ny = Neg (a)",
    ),
    "a branch that is never taken, and what only it used": (
        """(float[N] x) => (float[N] y) {
            t = Constant <value = bool {0}> ()
            b = Exp (x)
            y0 = If (t) <
                then_branch = t () => (float[N] p) { p = Neg (b) },
                else_branch = e () => (float[N] q) { x2 = Relu (x)  q = Abs (x2) }
            >
            y = Sub (x, y0) }""",
        {},
        "q = Relu (x)\ny = Sub (x, q)",
    ),
    "branches that compute the same": (
        """(float[N] x, bool c) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) {
                    two = Constant <value_float = 2.0> ()  a = Mul (x, two)  p = Relu (a) },
                else_branch = e () => (float[N] q) {
                    zwei = Constant <value_float = 2.0> ()  b = Mul (x, zwei)  b2 = Identity (b)  q = Relu (b2) }
            > }""",
        {},
        "a = Mul (x, 2.0)\ny = Relu (a)",
    ),
    "branches that compute nearly the same": (
        """(float[N] x, bool c) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) { two = Constant <value_float = 2.0> ()  p = Mul (x, two) },
                else_branch = e () => (float[N] q) { two2 = Constant <value_float = 2.5> ()  q = Mul (x, two2) }
            > }""",
        {},
        "y = If (c)\n  then_branch:\n    p = Mul (x, 2.0)\n  else_branch:\n    q = Mul (x, 2.5)",
    ),
    "branches with equal loops": (
        """(float[N] x, bool c, int64 n) => (float[N] y) {
            on = Constant <value = bool {1}> ()
            y = If (c) <
                then_branch = t () => (float[N] p) { p = Loop (n, on, x) <
                    body = b (int64 i, bool o, float[N] s) => (bool u, float[N] v) { u = Identity (o) v = Relu (s) }> },
                else_branch = e () => (float[N] q) { q = Loop (n, on, x) <
                    body = d (int64 k, bool w, float[N] z) => (bool f, float[N] g) { f = Identity (w) g = Relu (z) }> }
            > }""",
        {},
        "y = Loop (n, True, x)\n  body:\n    u = Identity (o)\n    v = Relu (s)",
    ),
    "an image that is resized by 1": (
        """(float[N,3,H,W] x) => (float[N,3,H,W] y) {
            a = Relu (x)  b = Resize <mode = "cubic", coordinate_transformation_mode = "align_corners"> (a, , by)
            c = Resize <mode = "linear"> (b, , by)  y = Neg (c) }""",
        {"by": np.ones(4, f32)},
        "a = Relu (x)\ny = Neg (a)",
    ),
    "an image that is resized to the sizes that it has": (
        """(float[N,3,H,W] x) => (float[N,3,H,W] y) {
            a = Relu (x)  sizes = Shape (x)  b = Resize <mode = "linear"> (a, , , sizes)  y = Neg (b) }""",
        {},
        "a = Relu (x)\ny = Neg (a)",
    ),
    "an image that is resized by 1 and cropped, or by hardly more than 1": (
        """(float[1,3,4,4] x) => (float[1,3,4,4] y) {
            a = Relu (x)
            b = Resize <coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear"> (a, roi, by)
            c = Resize <mode = "linear"> (b, , more)  y = Neg (c) }""",
        {
            "roi": np.array([0, 0, 0.1, 0, 1, 1, 0.9, 1], f32),
            "by": np.ones(4, f32),
            "more": np.array([1, 1, 1.2, 1], f32),
        },
        "a = Relu (x)\n"
        "b = Resize <coordinate_transformation_mode = tf_crop_and_resize, mode = linear> "
        "(a, roi[8], [1.0, 1.0, 1.0, 1.0])\n"
        "c = Resize <mode = linear> (b, -, [1.0, 1.0, 1.2000000476837158, 1.0])\n"
        "y = Neg (c)",
    ),
    "a window that is shifted along two axes": (
        """(float[N,14,14,8] x) => (float[N,14,14,8] y) {
            below = Slice (x, k, end, ax1)  above = Slice (x, zero, k, ax1)
            a = Slice (below, k, end, ax2)  b = Slice (below, zero, k, ax2)
            c = Slice (above, k, end, ax2)  d = Slice (above, zero, k, ax2)
            ab = Concat <axis = 2> (a, b)  cd = Concat <axis = 2> (c, d)  y = Concat <axis = 1> (ab, cd) }""",
        {
            "k": np.array([3]),
            "zero": np.array([0]),
            "end": np.array([2**63 - 1]),
            "ax1": np.array([1]),
            "ax2": np.array([2]),
        },
        "a = Slice (x, [3, 3], [9223372036854775807, 9223372036854775807], [1, 2], [1, 1])\n"
        "b = Slice (x, [3, 0], [9223372036854775807, 3], [1, 2], [1, 1])\n"
        "c = Slice (x, [0, 3], [3, 9223372036854775807], [1, 2], [1, 1])\n"
        "d = Slice (x, [0, 0], [3, 3], [1, 2], [1, 1])\n"
        "ab = Concat <axis = 2> (a, b)\ncd = Concat <axis = 2> (c, d)\ny = Concat <axis = 1> (ab, cd)",
    ),
    "a half of which more than quarters are needed": (
        """(float[N,14,14] x) => (float[N,7,7] y, float[N,7,14] z) {
            h = Slice (x, zero, k, ax1)  y = Slice (h, zero, k, ax2)  z = Relu (h) }""",
        {"k": np.array([7]), "zero": np.array([0]), "ax1": np.array([1]), "ax2": np.array([2])},
        "h = Slice (x, [0], [7], [1])\ny = Slice (h, [0], [7], [2])\nz = Relu (h)",
    ),
    "a transposition that is not written out": (
        "(float[8,N] x) => (float[N,5] y) { a = Transpose (x)  m = MatMul (a, w)  y = Relu (m) }",
        {"w": np.ones((8, 5), f32)},
        "m = Gemm <transA = 1> (x, w[8, 5])\ny = Relu (m)",
    ),
    "a branch that is taken now and then": (
        """(float[N] x, bool c) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) { a = Relu (x)  b = Relu (a)  p = Identity (b) },
                else_branch = e () => (float[N] q) { q = Identity (x) }
            > }""",
        {},
        "y = If (c)\n  then_branch:\n    p = Relu (x)\n  else_branch:\n    q = Identity (x)",
    ),
    "a computed shape": (
        """(float[N,3,4] x) => (float[N,12] y) {
            s = Shape (x)  n = Gather (s, zero)  m = Concat <axis = 0> (n, rest)  y = Reshape (x, m) }""",
        {"zero": np.array([0]), "rest": np.array([-1])},
        "y = Reshape (x, [0, 12])",
    ),
    "a batch that meets another size": (
        """(float[N,3,4] x) => (float[M,4] y) {
            s = Shape (x)  n = Gather (s, zero)  t = Mul (n, three)
            m = Concat <axis = 0> (t, four)  y = Reshape (x, m) }""",
        {"zero": np.array([0]), "three": np.array([3]), "four": np.array([4])},
        "y = Reshape (x, [-1, 4])",
    ),
    "what Expand is told is there already": (
        """(float[N,1] x) => (float[N,4] y) {
            s = Shape (x)  n = Gather (s, zero)  m = Concat <axis = 0> (n, four)  y = Expand (x, m) }""",
        {"zero": np.array([0]), "four": np.array([4])},
        "y = Expand (x, [1, 4])",
    ),
    "what Expand is told may be anything": (
        """(float[N,1] x, float[M] z) => (float[M,4] y) {
            s = Shape (z)  m = Concat <axis = 0> (s, four)  y = Expand (x, m) }""",
        {"four": np.array([4])},
        "s = Shape (z)\nm = Concat <axis = 0> (s, [4])\ny = Expand (x, m)",
    ),
    "axes that are renamed twice": (
        """(float[N,4] x) => (float[1,N,2,2] y) { a = Reshape (x, s)  y = Unsqueeze (a, zero) }""",
        {"s": np.array([-1, 2, 2]), "zero": np.array([0])},
        "y = Reshape (x, [1, -1, 2, 2])",
    ),
    "axes that are renamed for another, too": (
        """(float[N,4] x) => (float[1,N,2,2] y, float[N,2,2] z) {
            a = Reshape (x, s)  y = Unsqueeze (a, zero)  z = Relu (a) }""",
        {"s": np.array([-1, 2, 2]), "zero": np.array([0])},
        "a = Reshape (x, [-1, 2, 2])\ny = Unsqueeze (a, [0])\nz = Relu (a)",
    ),
    "concatenations of concatenations": (
        """(float[N] x) => (float[M] y, float[K,N] z) {
            a = Concat <axis = 0> (x, x)  b = Concat <axis = 0> (x, a)  c = Neg (x)  y = Concat <axis = 0> (b, c)
            u = Concat <axis = 0> (r, r2)  r = Unsqueeze (c, zero)  r2 = Abs (r)  v = Concat <axis = 1> (r2, r2)
            z = Concat <axis = 0> (v, v) }""".replace(
            "u = Concat <axis = 0> (r, r2)  r = Unsqueeze (c, zero)", "r = Unsqueeze (c, zero)"
        ),
        {"zero": np.array([0])},
        """\
        c = Neg (x)
        y = Concat <axis = 0> (x, x, x, c)
        r = Unsqueeze (c, [0])
        r2 = Abs (r)
        v = Concat <axis = 1> (r2, r2)
        z = Concat <axis = 0> (v, v)""",
    ),
    "batch normalization": (
        """(float[N,1,H,W] x) => (float[N,2,H,W] y) {
            t = Conv <kernel_shape = [1, 1]> (x, w)  y = BatchNormalization <epsilon = 0.0> (t, s, b, m, v) }""",
        {
            "w": np.array([1, 2], f32).reshape(2, 1, 1, 1),
            "s": np.array([2, 3], f32),
            "b": np.array([1, 1], f32),
            "m": np.array([0, 1], f32),
            "v": np.array([4, 9], f32),
        },
        "y = Conv <kernel_shape = (1, 1)> (x, [[[[1.0]]], [[[2.0]]]], [1.0, 0.0])",
    ),
    "layer normalization, written out": (
        """(float[N,2] x) => (float[N,2] y) {
            m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  p = Pow (d, two)  v = ReduceMean <axes = [-1]> (p)
            w = Add (v, e)  s = Sqrt (w)  n = Div (d, s)  f = Mul (n, g)  y = Add (f, b) }""",
        {"two": f32(2), "e": f32(0.5), "g": np.array([1, 2], f32), "b": np.array([3, 4], f32)},
        "y = LayerNormalization <axis = -1, epsilon = 0.5> (x, [1.0, 2.0], [3.0, 4.0])",
    ),
    "a matrix product and a sum": (
        "(float[N,2] x) => (float[N,2] y) { t = MatMul (x, w)  y = Add (b, t) }",
        {"w": np.array([[1, 2], [3, 4]], f32), "b": np.array([5, 6], f32)},
        "y = Gemm (x, [[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])",
    ),
    "a matrix product and a computed sum stay apart": (
        "(float[N,2] x, float[N,2] r) => (float[N,2] y) { t = MatMul (x, w)  y = Add (t, r) }",
        {"w": np.array([[1, 2], [3, 4]], f32)},
        "t = MatMul (x, [[1.0, 2.0], [3.0, 4.0]])\ny = Add (t, r)",
    ),
    "a product and its summand are scaled when they are stored": (
        "(float[N,2] x) => (float[N,2] y) { y = Gemm <alpha = 2.0, beta = 0.5> (x, w, b) }",
        {"w": np.array([[1, 2], [3, 4]], f32), "b": np.array([2, 4], f32)},
        "y = Gemm (x, [[2.0, 4.0], [6.0, 8.0]], [1.0, 2.0])",
    ),
    "integers keep their order": (
        "(int64[N] x) => (int64[N] y) { t = Mul (x, a)  y = Div (t, b) }",
        {"a": np.array([3]), "b": np.array([2])},
        "t = Mul (x, [3])\ny = Div (t, [2])",
    ),
    "a zero that widens is no neutral element": (
        "(float[3] x) => (float[2,3] y) { y = Add (x, z) }",
        {"z": np.zeros((2, 1), f32)},
        "y = Add (x, [[0.0], [0.0]])",
    ),
    "slices of slices": (
        """(float[N,8] x) => (float[N,3] y) { a = Slice (x, one, seven, one)  y = Slice (a, two, five, one) }""",
        {"one": np.array([1]), "two": np.array([2]), "five": np.array([5]), "seven": np.array([7])},
        "y = Slice (x, [3], [6], [1])",
    ),
    "the mean of an image has an int8 kernel as it is": (
        "(float[N,2,4,4] x) => (float[N,2] y) { a = GlobalAveragePool (x)  y = Flatten (a) }",
        {},
        "a = GlobalAveragePool (x)\ny = Flatten (a)",
    ),
    "axes of size one are moved by a Reshape": (
        "(float[5,1,2] x) => (float[1,10] y) { a = Transpose <perm = [1, 0, 2]> (x)  y = Reshape (a, s) }",
        {"s": np.array([0, 10])},
        "y = Reshape (x, [1, 10])",
    ),
    "x times zero is not zero": (
        "(float[3] x) => (float[3] y) { y = Mul (x, z) }",
        {"z": np.zeros(1, f32)},
        "y = Mul (x, [0.0])",
    ),
    "the mean of a distribution is taken along the last axis": (
        """(float[N,8,5] x) => (float[N,2,5] y) {
            a = Reshape (x, s)  t = Transpose <perm = [0, 2, 1, 3]> (a)  p = Softmax <axis = 1> (t)
            c = Conv <kernel_shape = [1, 1]> (p, w)  y = Reshape (c, r) }""",
        {"s": np.array([-1, 2, 4, 5]), "r": np.array([-1, 2, 5]), "w": np.arange(4, dtype=f32).reshape(1, 4, 1, 1)},
        "a = Reshape (x, [-1, 2, 4, 5])\ny/_1 = Transpose <perm = (0, 1, 3, 2)> (a)\n"
        "y/p = Softmax <axis = -1> (y/_1)\ny = MatMul (y/p, [0.0, 1.0, 2.0, 3.0])",
    ),
    "the mean of a distribution that was turned for Softmax, and back": (
        """(float[N,8,5] x) => (float[N,2,5] y) {
            a = Reshape (x, s)  t = Transpose <perm = [0, 3, 1, 2]> (a)  p = Softmax <axis = 3> (t)
            q = Transpose <perm = [0, 3, 2, 1]> (p)  c = Conv (q, w)  y = Reshape (c, r) }""",
        {"s": np.array([-1, 2, 4, 5]), "r": np.array([-1, 2, 5]), "w": np.arange(4, dtype=f32).reshape(1, 4, 1, 1)},
        "a = Reshape (x, [-1, 2, 4, 5])\nt = Transpose <perm = (0, 3, 1, 2)> (a)\np = Softmax <axis = 3> (t)\n"
        "y/_3 = MatMul (p, [0.0, 1.0, 2.0, 3.0])\ny = Transpose <perm = (0, 2, 1)> (y/_3)",
    ),
    "a convolution that strides is no product": (
        """(float[N,5,2,4] x) => (float[N,2,3] y) {
            t = Transpose <perm = [0, 3, 2, 1]> (x)  c = Conv <strides = [1, 2]> (t, w)  y = Reshape (c, r) }""",
        {"r": np.array([-1, 2, 3]), "w": np.arange(4, dtype=f32).reshape(1, 4, 1, 1)},
        "t = Transpose <perm = (0, 3, 2, 1)> (x)\n"
        "c = Conv <strides = (1, 2)> (t, [[[[0.0]], [[1.0]], [[2.0]], [[3.0]]]])\ny = Reshape (c, [-1, 2, 3])",
    ),
    "one number that is written as a vector, or more": (
        """(float[1,1,N,N] x) => (float[1,2,N,N] y) {
            t = Conv <kernel_shape = [1, 1]> (x, w)  u = Mul (s, t)  y = Add (u, b) }""",
        {"w": np.array([1, 2], f32).reshape(2, 1, 1, 1), "s": np.array([2], f32), "b": np.full((1, 1, 1, 1), 3, f32)},
        "y = Conv <kernel_shape = (1, 1)> (x, [[[[2.0]]], [[[4.0]]]], [3.0, 3.0])",
    ),
    "one number that makes more axes of a matrix is no factor of its product": (
        "(float[N,2] x) => (float[1,N,2] y) { t = Mul (x, s)  y = MatMul (t, w) }",
        {"w": np.array([[1, 2], [3, 4]], f32), "s": np.full((1, 1, 1), 2, f32)},
        "t = Mul (x, [[[2.0]]])\ny = MatMul (t, [[1.0, 2.0], [3.0, 4.0]])",
    ),
    "one number that makes more axes of an image is none of its convolution": (
        """(float[1,3,N,N] x) => (float[1,1,1,N,N] y, float[1,1,1,N,N] z) {
            t = Conv <kernel_shape = [1, 1]> (x, w)  y = Mul (t, s)  v = Conv <kernel_shape = [1, 1]> (x, u)
            z = Add (v, s) }""",
        {"w": np.ones((1, 3, 1, 1), f32), "u": np.full((1, 3, 1, 1), 2, f32), "s": np.full((1, 1, 1, 1, 1), 2, f32)},
        "t = Conv <kernel_shape = (1, 1)> (x, [[[[1.0]], [[1.0]], [[1.0]]]])\ny = Mul (t, [[[[[2.0]]]]])\n"
        "v = Conv <kernel_shape = (1, 1)> (x, [[[[2.0]], [[2.0]], [[2.0]]]])\nz = Add (v, [[[[[2.0]]]]])",
    ),
    "one number that makes a volume of images is none of the convolution behind": (
        """(float[2,2,N,N] x) => (float[1,3,2,N,N] y) {
            t = Mul (x, s)  y = Conv <kernel_shape = [1, 1, 1]> (t, w) }""",
        {"w": np.ones((3, 2, 1, 1, 1), f32), "s": np.full((1, 1, 1, 1, 1), 2, f32)},
        "t = Mul (x, [[[[[2.0]]]]])\ny = Conv <kernel_shape = (1, 1, 1)> (t, w[3, 2, 1, 1, 1])",
    ),
    "an activation whose equal constants have other shapes": (
        """(float[1,1,N,N] x) => (float[1,1,N,N] y) {
            a = Add (x, three)  c = Clip (a, zero, six)  p = Mul (x, c)  y = Div (p, other) }""",
        {"three": f32(3), "zero": f32(0), "six": f32(6), "other": np.array([6], f32)},
        "y = HardSwish (x)",
    ),
    "a scale goes through a shift that padding keeps in front of a convolution": (
        """(float[1,2,N,N] x) => (float[1,1,N,N] y) {
            t = Mul (x, s)  u = Add (t, b)  y = Conv <kernel_shape = [1, 1], pads = [1, 1, 1, 1]> (u, w) }""",
        {"w": np.array([1, 2], f32).reshape(1, 2, 1, 1), "s": np.array([2], f32), "b": np.array([3], f32)},
        "y/shifted = Add (x, [1.5])\n"
        "y = Conv <kernel_shape = (1, 1), pads = (1, 1, 1, 1)> (y/shifted, [[[[2.0]], [[4.0]]]])",
    ),
    "a scale of zero stays where it is": (
        """(float[1,2,N,N] x) => (float[1,1,N,N] y) {
            t = Mul (x, s)  u = Add (t, b)  y = Conv <kernel_shape = [1, 1], pads = [1, 1, 1, 1]> (u, w) }""",
        {"w": np.ones((1, 2, 1, 1), f32), "s": np.array([0, 2], f32).reshape(2, 1, 1), "b": np.array([3], f32)},
        "t = Mul (x, [[[0.0]], [[2.0]]])\nu = Add (t, [3.0])\n"
        "y = Conv <kernel_shape = (1, 1), pads = (1, 1, 1, 1)> (u, [[[[1.0]], [[1.0]]]])",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_before_and_after(case):
    before, weights, after = CASES[case]
    check(before, after, Simplify(), **{name: np.asarray(array) for name, array in weights.items()})
