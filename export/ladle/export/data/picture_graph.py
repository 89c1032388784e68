"""The preparation of `ladle.protos.files.pictures` as operations of a SavedModel's graph.

TensorFlow reads PNG, JPEG, GIF and BMP; it knows neither EXIF nor the palette of a BMP, and so the
first is read here and the second refused. Everything is within 1 of 255 of what Pillow gives.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_ORIENTATION_TAG = 0x0112
_SHORT = 3
_EXIF_SEGMENT, _SCAN_SEGMENT = 0xE1, 0xDA
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BMP_HEADER_BYTES = 14


def decode(encoded: Any, channels: int) -> Any:
    """Return one encoded picture's pixels, upright, float32 [height, width, channels].

    Args:
        encoded: A scalar string.
        channels: 1, 3 or 4: grey, colour, or colour with alpha.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(encoded),
        # Pillow's method; TensorFlow's own default is off by up to 11.
        lambda: tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_other(encoded),
    )
    return upright(with_channels(pixels, channels), orientation(encoded))


def fit(pixels: Any, size: tuple[int, int]) -> Any:
    """Bring images [..., height, width, channels] to `size`, and return them as float32.

    Bilinear, and without aliasing where an image becomes smaller. Pixels are not rounded to bytes
    as Pillow rounds them.
    """
    return tf.image.resize(pixels, size, antialias=True)


def with_channels(pixels: Any, channels: int) -> Any:
    """Return decoded uint8 pixels of 1 to 4 channels as float32 with as many as are wanted."""
    values = tf.cast(pixels, tf.int32)
    n = tf.shape(values)[-1]
    # The first three and the last are there in any case: grey counts three times.
    colours = tf.gather(values, tf.where(n >= 3, [0, 1, 2], [0, 0, 0]), axis=-1)
    if channels == 1:
        # ITU-R 601 in integers, as Pillow has it; of three equal numbers it is that number.
        luma = tf.reduce_sum(colours * tf.constant([19595, 38470, 7471]), axis=-1, keepdims=True)
        return tf.cast((luma + 0x8000) // 0x10000, tf.float32)
    if channels == 4:
        alpha = tf.where(n % 2 == 0, values[..., -1:], 255)
        colours = tf.concat([colours, alpha], axis=-1)
    return tf.cast(colours, tf.float32)


def upright(pixels: Any, orientation: Any) -> Any:
    """Turn pixels [height, width, channels] as an EXIF orientation, 1 to 8, says."""
    swapped = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    mirrored = _cond_one_of(orientation, (2, 3, 6, 7), swapped, axis=1)
    return _cond_one_of(orientation, (3, 4, 7, 8), mirrored, axis=0)


def orientation(encoded: Any) -> Any:
    """Return the EXIF orientation of an encoded JPEG or PNG; 1, upright, where it has none."""
    data = tf.io.decode_raw(encoded, tf.uint8)
    start = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _exif_in_jpeg(data),
        lambda: tf.cond(
            _is_at(data, 0, _PNG_SIGNATURE), lambda: _exif_in_png(data), lambda: tf.constant(-1)
        ),
    )
    return tf.cond(start >= 0, lambda: _orientation_at(data, start), lambda: tf.constant(1))


def _decode_other(encoded: Any) -> Any:
    data = tf.io.decode_raw(encoded, tf.uint8)
    is_bmp = _is_at(data, 0, b"BM")
    with tf.control_dependencies([tf.cond(is_bmp, lambda: _has_no_colours(data), lambda: True)]):
        return tf.io.decode_image(encoded, expand_animations=False)


def _has_no_colours(data: Any) -> Any:
    """See that a BMP with a palette is grey: TensorFlow takes its indices for grey values."""
    header = _number(data, 14, 4, little=True)
    bits = _number(data, 28, 2, little=True)
    begin = _BMP_HEADER_BYTES + header
    palette = data[begin : _number(data, 10, 4, little=True)]
    palette = tf.reshape(palette[: tf.size(palette) // 4 * 4], [-1, 4])[:, :3]
    ramp = tf.cast(tf.range(tf.shape(palette)[0])[:, tf.newaxis], tf.uint8)
    is_grey = (bits > 8) | tf.reduce_all(palette == ramp)
    message = "an image: expected PNG, JPEG, or BMP without a palette of colours"
    with tf.control_dependencies([tf.debugging.Assert(is_grey, [message])]):
        return tf.identity(is_grey)


def _cond_one_of(orientation: Any, chosen: tuple[int, ...], pixels: Any, axis: int) -> Any:
    is_chosen = tf.reduce_any(tf.equal(orientation, chosen))
    return tf.cond(is_chosen, lambda: tf.reverse(pixels, [axis]), lambda: pixels)


def _exif_in_jpeg(data: Any) -> Any:
    """Return where the TIFF header of the EXIF segment begins; -1 without one."""
    size = tf.size(data)

    def goes_on(place: Any, found: Any) -> Any:
        marker = _number(data, place + 1, 1)
        is_segment = (_number(data, place, 1) == 0xFF) & (marker != _SCAN_SEGMENT)
        return (found < 0) & (place + 4 <= size) & is_segment

    def step(place: Any, found: Any) -> tuple[Any, Any]:
        marker = _number(data, place + 1, 1)
        is_exif = (marker == _EXIF_SEGMENT) & _is_at(data, place + 4, b"Exif\0\0")
        following = place + 2 + tf.maximum(_number(data, place + 2, 2), 2)
        following = tf.where(marker == 0xFF, place + 1, following)  # a byte to fill up
        return following, tf.where(is_exif, place + 10, found)

    return tf.while_loop(goes_on, step, (tf.constant(2), tf.constant(-1)))[1]


def _exif_in_png(data: Any) -> Any:
    """Return where the content of the chunk `eXIf` begins; -1 without one."""
    size = tf.size(data)

    def goes_on(place: Any, found: Any) -> Any:
        return (found < 0) & (place >= 0) & (place + 12 <= size)

    def step(place: Any, found: Any) -> tuple[Any, Any]:
        length = _number(data, place, 4)
        is_exif = _is_at(data, place + 4, b"eXIf")
        # A length that is none ends the search.
        following = tf.where((length < 0) | (length > size), -1, place + 12 + length)
        return following, tf.where(is_exif, place + 8, found)

    return tf.while_loop(goes_on, step, (tf.constant(8), tf.constant(-1)))[1]


def _orientation_at(data: Any, start: Any) -> Any:
    """Return the orientation that a TIFF header's first directory has; 1 where it has none."""
    little = _is_at(data, start, b"II*\0")
    is_tiff = little | _is_at(data, start, b"MM\0*")
    offset = _number(data, start + 4, 4, little)
    directory = start + tf.where((offset < 8) | (offset > tf.size(data)), 0, offset)
    has_entries = is_tiff & (directory > start)
    n_entries = tf.where(has_entries, _number(data, directory, 2, little), 0)
    entries = directory + 2 + 12 * tf.range(n_entries)
    is_orientation = (_number(data, entries, 2, little) == _ORIENTATION_TAG) & (
        _number(data, entries + 2, 2, little) == _SHORT
    )
    values = tf.boolean_mask(_number(data, entries + 8, 2, little), is_orientation)
    last = tf.concat([[1], values], axis=0)[-1]
    return tf.where((last >= 1) & (last <= 8), last, 1)


def _number(data: Any, place: Any, n_bytes: int, little: Any = False) -> Any:
    """Return the unsigned numbers at `place`, as int32; bytes beyond the end count as 0.

    Four bytes that are more than an int32 holds give a negative number.
    """
    place = tf.convert_to_tensor(place)
    offsets = tf.range(n_bytes)
    shifts = 8 * tf.where(little, offsets, offsets[::-1])
    places = place[..., tf.newaxis] + offsets
    is_there = (places >= 0) & (places < tf.size(data))
    safe = tf.where(is_there, places, 0)
    padded = tf.concat([data, tf.zeros([1], tf.uint8)], axis=0)  # not empty
    values = tf.where(is_there, tf.cast(tf.gather(padded, safe), tf.int32), 0)
    return tf.reduce_sum(tf.bitwise.left_shift(values, shifts), axis=-1)


def _is_at(data: Any, place: Any, text: bytes) -> Any:
    expected = tf.constant(list(text), tf.int32)
    found = _number(data, tf.convert_to_tensor(place) + tf.range(len(text)), 1)
    return tf.reduce_all(found == expected)
