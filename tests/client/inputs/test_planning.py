from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.inputs import planning
from ladle.client.inputs.arrays import as_arrays
from ladle.client.inputs.conversion import Normalize
from ladle.client.models import ModelMetadata, Signature, TensorSpec
from ladle.protos import dtypes
from ladle.protos.model_card import Column, ModelCard, Normalization

PIXELS = np.array([[0, 51], [102, 255]], np.uint8)


def spec(dtype: DTypeLike = np.float32, shape: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec(dtypes.from_numpy(np.dtype(dtype)), shape)


def metadata(
    *,
    normalization: Normalization | None = None,
    card_error: str = "",
    optional: frozenset[str] = frozenset(),
    **declared: TensorSpec,
) -> ModelMetadata:
    """A model "m" whose default signature declares these inputs, and the output "scores"."""
    return ModelMetadata(
        model="m",
        version=3,
        signatures={
            "serving_default": Signature(
                inputs=declared, outputs={"scores": spec()}, optional=optional
            )
        },
        card=None if normalization is None else ModelCard(normalization=normalization),
        card_error=card_error,
    )


def prepare(
    model: ModelMetadata, given: Any, normalize: Normalize = "auto", signature: str = ""
) -> dict[str, NDArray[Any]]:
    arrays = as_arrays(given)
    return planning.execute(planning.plan(model, signature, arrays, normalize), arrays)


class TestNames:
    def test_one_array_is_the_only_input(self) -> None:
        assert list(prepare(metadata(x=spec()), np.zeros(2, np.float32))) == ["x"]

    def test_one_array_cant_be_two_inputs(self) -> None:
        with pytest.raises(InvalidInput, match=r'2 inputs; expected a dict with {"x": float32 of'):
            prepare(metadata(x=spec(), y=spec()), np.zeros(2, np.float32))

    @pytest.mark.parametrize("given", [{}, {"y": 1.0}, {"x": 1.0, "y": 1.0}])
    def test_missing_and_unknown_names_are_refused(self, given: dict[str, float]) -> None:
        message = r'model "m" version 3: expected inputs {"x": float32 \[\]}, got \['
        with pytest.raises(InvalidInput, match=message):
            prepare(metadata(x=spec(shape=())), given)

    def test_an_input_with_a_default_may_be_left_out(self) -> None:
        model = metadata(x=spec(), k=spec(np.int32), optional=frozenset({"k"}))
        assert list(prepare(model, {"x": 1.0})) == ["x"]

    def test_an_unknown_signature_is_refused_as_the_server_would(self) -> None:
        with pytest.raises(FailedPrecondition, match=r'"s": expected one of \["serving_default"\]'):
            prepare(metadata(x=spec()), 1.0, signature="s")

    def test_an_unknown_output_is_refused(self) -> None:
        planning.check_outputs(metadata(), "", ("scores",))
        with pytest.raises(InvalidInput, match=r'output "z": expected one of \["scores"\]'):
            planning.check_outputs(metadata(), "", ("scores", "z"))


class TestShapes:
    @pytest.mark.parametrize(
        ("given", "declared"),
        [((5, 2), (-1, 2)), ((0, 2), (-1, 2)), ((), ()), ((4, 4, 4), None), ((5, 2), (5, 2))],
    )
    def test_an_open_size_takes_any(
        self, given: tuple[int, ...], declared: tuple[int, ...] | None
    ) -> None:
        prepare(metadata(x=spec(shape=declared)), np.zeros(given, np.float32))

    @pytest.mark.parametrize("given", [(5, 3), (5,), (5, 2, 1), ()])
    def test_another_shape_is_refused(self, given: tuple[int, ...]) -> None:
        expected = 'input "x" of model "m" version 3: expected float32 [-1, 2], got float32'
        with pytest.raises(InvalidInput, match=re.escape(f"{expected} {list(given)}") + "$"):
            prepare(metadata(x=spec(shape=(-1, 2))), np.zeros(given, np.float32))

    def test_a_single_example_is_told_to_be_a_batch(self) -> None:
        with pytest.raises(
            InvalidInput, match=r"make a batch of the single example: array\[None\]"
        ):
            prepare(metadata(x=spec(shape=(-1, 2, 2))), np.zeros((2, 2), np.float32))


class TestDtypes:
    @pytest.mark.parametrize(
        ("given", "declared"),
        [
            (np.float64, np.float32),
            (np.float32, np.float64),
            (np.float64, np.float16),
            (np.float32, ml_dtypes.bfloat16),
            (ml_dtypes.bfloat16, np.float32),
            (np.float32, ml_dtypes.float8_e5m2),
            (np.int64, np.int32),
            (np.int64, np.uint8),
            (np.uint8, np.int64),
            (np.int64, np.float32),
            (np.int8, ml_dtypes.bfloat16),
            (np.complex128, np.complex64),
            (">f4", np.float32),
            (">i4", np.int32),
        ],
    )
    def test_a_cast_that_keeps_the_values_is_made(
        self, given: DTypeLike, declared: DTypeLike
    ) -> None:
        sent = prepare(metadata(x=spec(declared)), np.array([0, 1, 2]).astype(given))["x"]
        assert sent.dtype == np.dtype(declared)
        assert sent.astype(np.complex64).tolist() == [0, 1, 2]

    @pytest.mark.parametrize(
        ("given", "declared"),
        [
            (np.float32, np.int32),
            (np.float32, np.uint8),
            (np.complex64, np.float32),
            (np.float32, np.complex64),
            (np.int32, np.bool_),
            (np.float32, object),
            ("U1", np.float32),
        ],
    )
    def test_any_other_dtype_is_refused(self, given: DTypeLike, declared: DTypeLike) -> None:
        with pytest.raises(InvalidInput, match=r'input "x" of model "m" version 3: expected'):
            prepare(metadata(x=spec(declared)), np.zeros(2, given))

    @pytest.mark.parametrize(
        ("values", "declared", "message"),
        [
            ([300], np.uint8, "integers from 0 to 255 exactly, got int64 from 300 to 300"),
            ([1, -1], np.uint8, "from -1 to 1"),
            ([1 << 40], np.int32, "expected int32"),
            (np.array([1 << 63], np.uint64), np.int64, "expected int64"),
            ([0, (1 << 24) + 1], np.float32, "from -16777216 to 16777216 exactly"),
        ],
    )
    def test_integers_that_the_declared_dtype_cant_hold_are_refused(
        self, values: ArrayLike, declared: DTypeLike, message: str
    ) -> None:
        with pytest.raises(InvalidInput, match=message):
            prepare(metadata(x=spec(declared)), values)

    def test_floats_beyond_the_declared_dtype_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match='input "x": values too large for float32'):
            prepare(metadata(x=spec()), [1e300])

    def test_special_floats_pass(self) -> None:
        sent = prepare(metadata(x=spec()), [np.nan, np.inf])["x"]
        np.testing.assert_array_equal(sent, np.array([np.nan, np.inf], np.float32))

    def test_what_fits_is_not_copied(self) -> None:
        array = np.zeros((2, 2), np.float32)
        assert prepare(metadata(x=spec()), array)["x"] is array

    def test_a_dtype_that_numpy_has_not_is_left_to_the_server(self) -> None:
        array = np.zeros(2, np.float32)
        assert prepare(metadata(x=TensorSpec(20, None)), array)["x"] is array

    def test_ragged_lists_are_refused_by_name(self) -> None:
        with pytest.raises(
            InvalidInput, match=r'input "x": numpy can.t make an array of this list'
        ):
            prepare(metadata(x=spec()), {"x": [[1.0], [2.0, 3.0]]})


class TestStrings:
    @pytest.mark.parametrize("values", [[b"a\0", b"\0"], ["a\0", "\0"]])
    def test_trailing_nuls_are_kept(self, values: list[str] | list[bytes]) -> None:
        """Serialised tf.Examples may end in them, and numpy's own string dtypes drop them."""
        sent = prepare(metadata(x=spec(object)), values)["x"]
        assert sent.dtype == object
        assert sent.tolist() == values

    def test_a_single_string_is_a_scalar(self) -> None:
        assert prepare(metadata(x=spec(object, ())), b"a\0")["x"].item() == b"a\0"

    @pytest.mark.parametrize("dtype", ["S3", "U3", object])
    def test_every_kind_of_string_array_passes(self, dtype: DTypeLike) -> None:
        array = np.array(["abc"]).astype(dtype)
        assert prepare(metadata(x=spec(object)), array)["x"] is array


class TestNormalization:
    def test_raw_pixels_are_normalised_as_the_card_says(self) -> None:
        model = metadata(x=spec(), normalization=Normalization(offset=51, divisor=51))
        sent = prepare(model, PIXELS)["x"]
        assert sent.dtype == np.float32
        assert sent.tolist() == [[-1, 0], [1, 4]]

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
    def test_the_declared_width_is_kept(self, dtype: DTypeLike) -> None:
        model = metadata(x=spec(dtype), normalization=Normalization(divisor=255))
        sent = prepare(model, PIXELS)["x"]
        assert sent.dtype == np.dtype(dtype)
        np.testing.assert_allclose(sent.astype(np.float32), PIXELS / np.float32(255), rtol=1e-2)

    def test_floats_are_taken_as_they_are(self) -> None:
        model = metadata(x=spec(), normalization=Normalization(divisor=255))
        assert prepare(model, [1.0, 2.0])["x"].tolist() == [1, 2]

    def test_the_callers_normalisation_comes_before_the_cards(self) -> None:
        model = metadata(x=spec(), normalization=Normalization(divisor=255))
        assert prepare(model, PIXELS, Normalization(divisor=51))["x"].tolist() == [[0, 1], [2, 5]]

    def test_the_callers_normalisation_stands_in_for_a_missing_card(self) -> None:
        sent = prepare(metadata(x=spec()), PIXELS, Normalization(divisor=51))
        assert sent["x"].tolist() == [[0, 1], [2, 5]]

    def test_none_sends_the_numbers_as_they_are(self) -> None:
        model = metadata(x=spec(), normalization=Normalization(divisor=255))
        sent = prepare(model, PIXELS, None)["x"]
        assert sent.dtype == np.float32
        assert sent.tolist() == PIXELS.tolist()

    def test_a_signature_of_uint8_gets_raw_pixels(self) -> None:
        model = metadata(x=spec(np.uint8), normalization=Normalization(divisor=255))
        assert prepare(model, PIXELS)["x"] is PIXELS

    @pytest.mark.parametrize(
        ("model", "why"),
        [
            (metadata(x=spec()), "no normalisation is recorded with the model"),
            (
                metadata(x=spec(), card_error="model card: of 2036"),
                r"its card can't be read \(model card: of 2036\)",
            ),
        ],
    )
    def test_without_a_normalisation_raw_pixels_are_refused_with_advice(
        self, model: ModelMetadata, why: str
    ) -> None:
        message = rf"expected float32 .*, got uint8 .*; {why}: pass normalize=Normalization\(div"
        with pytest.raises(InvalidInput, match=message):
            prepare(model, PIXELS)

    def test_raw_pixels_in_another_dtype_are_not_guessed_at(self) -> None:
        """Sent as they are they'd be 255 times too bright, and nobody would be told."""
        model = metadata(x=spec(), normalization=Normalization(divisor=255))
        with pytest.raises(InvalidInput, match=r"got int64 .*; pass raw pixels as uint8"):
            prepare(model, PIXELS.tolist())
        assert prepare(model, PIXELS.tolist(), None)["x"].tolist() == PIXELS.tolist()

    @pytest.mark.parametrize("given", [np.zeros(2, np.float32), [1, 2]])
    def test_a_normalisation_that_applies_to_nothing_is_refused(self, given: ArrayLike) -> None:
        with pytest.raises(InvalidInput, match="normalize applies to raw pixels"):
            prepare(metadata(x=spec()), given, Normalization(divisor=255))

    def test_channels_that_dont_agree_are_refused(self) -> None:
        model = metadata(x=spec(), normalization=Normalization(divisor=(1, 2, 3)))
        with pytest.raises(InvalidInput, match=r'input "x": Normalization\(.* does not apply to'):
            prepare(model, PIXELS)

    def test_another_value_is_a_mistake_in_the_program(self) -> None:
        with pytest.raises(TypeError, match='normalize: expected "auto", "client", "server", a'):
            prepare(metadata(x=spec()), PIXELS, "never")  # type: ignore[arg-type]


class TestUntold:
    """A server that tells no signatures: nothing can be checked."""

    MODEL = ModelMetadata(model="m", version=None, signatures={})

    def test_everything_passes_as_it_is(self) -> None:
        given = {"x": PIXELS, "y": np.array(["a"])}
        assert prepare(self.MODEL, given, signature="s") == given
        planning.check_outputs(self.MODEL, "s", ("z",))

    def test_an_array_needs_its_name(self) -> None:
        with pytest.raises(InvalidInput, match=r"give a dict, {name: array}"):
            prepare(self.MODEL, PIXELS)

    def test_the_callers_normalisation_applies_to_uint8(self) -> None:
        sent = prepare(self.MODEL, {"x": PIXELS, "k": np.int32(3)}, Normalization(divisor=51))
        assert sent["x"].tolist() == [[0, 1], [2, 5]]
        assert sent["k"].dtype == np.int32


def test_plans_are_equal_where_the_same_bytes_would_be_sent() -> None:
    """It's how a version that only has a new number is told from one that wants other inputs."""

    def plan_for(model: ModelMetadata) -> planning.Plan:
        return planning.plan(model, "", PIXELS, "auto")

    by_255, by_2 = Normalization(divisor=255), Normalization(divisor=2)
    one = plan_for(metadata(x=spec(), normalization=by_255))
    assert one == plan_for(
        metadata(x=spec(shape=(-1, 2)), normalization=Normalization(divisor=255))
    )
    assert one != plan_for(metadata(x=spec(), normalization=by_2))
    assert one != plan_for(metadata(x=spec(np.float64), normalization=by_255))
    assert one != plan_for(metadata(y=spec(), normalization=by_255))


class TestColumns:
    """The table that a model was trained on has columns a and b, in this order."""

    MODEL = replace(
        metadata(features=spec(shape=(-1, 2))),
        card=ModelCard(columns=(Column(name="a"), Column(name="b"))),
    )

    @pytest.mark.parametrize(
        "given",
        [
            {"b": [2.5, 4], "a": [1, 3]},
            {"b": np.array([[2.5], [4]]), "a": np.array([1, 3], np.uint8)},
            {"features": np.array([[1, 2.5], [3, 4]])},
            np.array([[1, 2.5], [3, 4]]),
        ],
    )
    def test_they_are_bound_by_name_whatever_their_order(self, given: Any) -> None:
        sent = prepare(self.MODEL, given)
        assert sent["features"].dtype == np.float32
        assert sent["features"].tolist() == [[1, 2.5], [3, 4]]

    def test_a_data_frames_are_bound_by_name(self) -> None:
        class Frame(dict[str, list[int]]):
            columns = ("b", "a")

            def to_numpy(self) -> None:
                """Be recognised as a DataFrame."""

        frame = Frame(b=[2, 4], a=[1, 3])
        assert prepare(self.MODEL, frame)["features"].tolist() == [[1, 2], [3, 4]]

    def test_numbers_of_a_table_are_no_pixels(self) -> None:
        table = np.array([[1, 2]], np.uint8)
        assert prepare(self.MODEL, table)["features"].tolist() == [[1, 2]]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"a": [1.0]}, r'expected its 2 columns by name, or .*; missing \["b"\]'),
            ({"a": [1.0], "b": [2.0], "c": [3.0]}, r'not of the model \["c"\]'),
            ({"a": [1.0], "b": [2.0, 3.0]}, r'column "b": expected 1 numbers, as in "a", got .*2'),
            ({"a": [1.0], "b": ["x"]}, r'column "b": expected 1 numbers, as in "a", got object'),
        ],
    )
    def test_what_is_missing_or_no_column_is_named(self, given: Any, message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            prepare(self.MODEL, given)
