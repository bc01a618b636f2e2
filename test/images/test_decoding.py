"""Stage 0: every encoding on images so small that the bytes are written by hand."""

import array
import subprocess
import sys
import tracemalloc
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from selavpr_ros.errors import DepthError, ImageError, SettingError
from selavpr_ros.images import raw
from selavpr_ros.images.compressed import decode_compressed, read_image
from selavpr_ros.images.decoding import ImageReader, decode
from selavpr_ros.images.raw import KNOWN_ENCODINGS, decode_image
from selavpr_ros.settings import ImageSettings

RGB = np.random.default_rng(7).integers(0, 256, (4, 6, 3), dtype=np.uint8)
ALPHA = np.full((4, 6, 1), 17, np.uint8)
GREY = RGB[..., :1]
LOW_BYTE = 0xA5

# Four 2x2 blocks: red, green / blue, white. Y, U, V of BT.601 in limited range.
BLOCK_RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
BLOCK_YUV = np.array([[[81, 90, 240], [145, 54, 34]], [[41, 240, 110], [235, 128, 128]]], np.uint8)
YUV_TRUTH = BLOCK_RGB.repeat(2, 0).repeat(2, 1)
YUV = BLOCK_YUV.repeat(2, 0).repeat(2, 1)
U_V = BLOCK_YUV[..., 1:]

FLAVOURS = {
    'live': lambda data: array.array('B', data),
    'bag': lambda data: np.frombuffer(data, np.uint8),
    'bytes': bytes,
}


def image_message(rows, encoding, *, width, height=None, padding=0, big_endian=False,
                  flavour='bag'):
    """A sensor_msgs/Image of the given rows of bytes; `padding` bytes of 255 end each row."""
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return SimpleNamespace(
        height=len(rows) if height is None else height, width=width, encoding=encoding,
        is_bigendian=int(big_endian), step=padded.shape[1],
        data=FLAVOURS[flavour](padded.tobytes()))


def compressed_message(data, message_format='jpeg', flavour='bag'):
    return SimpleNamespace(format=message_format, data=FLAVOURS[flavour](bytes(data)))


def sixteen_bit(samples, big_endian):
    return (samples.astype(np.uint16) << 8 | LOW_BYTE).astype('>u2' if big_endian else '<u2')


def mosaic_of(colours, pattern, height=6, width=8):
    """A flat picture of `colours` (R, G, B) seen through a Bayer filter."""
    cell = np.array([colours['rgb'.index(letter)] for letter in pattern]).reshape(2, 2)
    return np.tile(cell, (height // 2, width // 2)).astype(np.uint8)


PACKED = {
    'rgb': (RGB, RGB), 'bgr': (RGB[..., ::-1], RGB),
    'rgba': (np.dstack((RGB, ALPHA)), RGB), 'bgra': (np.dstack((RGB[..., ::-1], ALPHA)), RGB),
    'mono': (GREY, GREY.repeat(3, 2)),
}
UNNAMED = {'8UC1': 'mono', '8UC3': 'bgr', '8UC4': 'bgra',
           '16UC1': 'mono', '16UC3': 'bgr', '16UC4': 'bgra'}


@pytest.mark.parametrize('flavour', FLAVOURS)
@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', [f'{name}8' for name in PACKED] + ['8UC1', '8UC3', '8UC4'])
def test_eight_bit(encoding, padding, flavour):
    samples, expected = PACKED[UNNAMED.get(encoding) or encoding[:-1]]
    message = image_message(samples, encoding, width=6, padding=padding, flavour=flavour)
    result = decode_image(message)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('padding', [0, 4, 5])
@pytest.mark.parametrize('encoding', [f'{name}16' for name in PACKED]
                         + ['16UC1', '16UC3', '16UC4'])
def test_sixteen_bit_keeps_the_high_byte(encoding, padding, big_endian):
    samples, expected = PACKED[UNNAMED.get(encoding) or encoding[:-2]]
    message = image_message(sixteen_bit(samples, big_endian), encoding, width=6, padding=padding,
                            big_endian=big_endian)
    np.testing.assert_array_equal(decode_image(message), expected)


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
@pytest.mark.parametrize(('low', 'width'), [(7200, 1000), (0, 1023), (64, 4031), (0, 16383)])
def test_sixteen_bit_that_is_not_filled_becomes_black_to_white(low, width, encoding, big_endian):
    samples = np.linspace(low, low + width, 10_000).reshape(100, 100)
    rows = samples.astype('>u2' if big_endian else '<u2')
    image = decode_image(image_message(
        rows, encoding, width=100, padding=6, big_endian=big_endian))
    assert image[0, 0, 0] == 0
    assert image[-1, -1, 0] == 255
    assert np.array_equal(np.unique(image), np.arange(256))


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_a_bayer_mosaic_of_fewer_bits_keeps_its_colours(bits):
    noise = np.random.default_rng(3).integers(0, 2, (60, 80), dtype=np.uint8)
    mosaic = mosaic_of((250, 130, 10), 'grbg', 60, 80) + noise
    rows = (mosaic.astype(np.uint16) << (bits - 8)).astype('<u2')
    image = decode_image(image_message(rows, 'bayer_grbg16', width=80))
    assert image[2:-2, 2:-2].mean((0, 1)) == pytest.approx((255, 128, 0), abs=8)


def test_depth_is_refused_as_depth():
    depth = np.random.default_rng(4).integers(500, 5000, (40, 60)).astype('<u2')
    depth[:8] = 0
    for message in (image_message(depth, '16UC1', width=60),
                    compressed_message(encoded(depth, '.png'), '16UC1; png compressed '),
                    compressed_message(b'1234', '16UC1; compressedDepth png'),
                    image_message(depth.astype(np.float32), '32FC1', width=60)):
        with pytest.raises(DepthError, match='depth'):
            decode(message)
    assert decode(image_message(depth, '16UC1', width=60), 'mono16').shape == (40, 60, 3)


def test_endianness_flag_means_nothing_for_eight_bit():
    message = image_message(RGB, 'rgb8', width=6, big_endian=True)
    np.testing.assert_array_equal(decode_image(message), RGB)


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_pattern_is_named_by_the_first_row(pattern, bits, big_endian):
    colours = 200, 100, 50
    mosaic = mosaic_of(colours, pattern)
    rows = sixteen_bit(mosaic, big_endian) if bits == 16 else mosaic
    message = image_message(rows, f'bayer_{pattern}{bits}', width=8, padding=3,
                            big_endian=big_endian)
    np.testing.assert_array_equal(decode_image(message), np.broadcast_to(colours, (6, 8, 3)))


def test_bayer_of_odd_size():
    mosaic = mosaic_of((200, 100, 50), 'rggb')[:5, :7]
    result = decode_image(image_message(mosaic, 'bayer_rggb8', width=7))
    np.testing.assert_array_equal(result, np.broadcast_to((200, 100, 50), (5, 7, 3)))


def packed_yuv(order):
    """YUV 4:2:2 by hand: per two pixels Y0 Y1 and the U, V of the left one."""
    left, right = YUV[:, 0::2], YUV[:, 1::2]
    source = {'0': left[..., 0], '1': right[..., 0], 'u': left[..., 1], 'v': left[..., 2]}
    return np.stack([source[letter] for letter in order], 2).reshape(4, 8)


@pytest.mark.parametrize('padding', [0, 4])
@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'u0v1'), ('uyvy', 'u0v1'), ('yuv422_yuy2', '0u1v'), ('yuyv', '0u1v')])
def test_packed_yuv(encoding, order, padding):
    message = image_message(packed_yuv(order), encoding, width=4, padding=padding)
    np.testing.assert_allclose(decode_image(message).astype(int), YUV_TRUTH, atol=2)


CHROMA = {
    'nv12': U_V.reshape(2, 4),
    'nv16': U_V.repeat(2, 0).reshape(4, 4),
    'nv24': U_V.repeat(2, 0).repeat(2, 1).reshape(4, 8),
    'nv21': U_V[..., ::-1].reshape(2, 4),
    'nv61': U_V[..., ::-1].repeat(2, 0).reshape(4, 4),
    'nv42': U_V[..., ::-1].repeat(2, 0).repeat(2, 1).reshape(4, 8),
}


@pytest.mark.parametrize('flavour', FLAVOURS)
@pytest.mark.parametrize('padding', [0, 4])
@pytest.mark.parametrize('encoding', CHROMA)
def test_two_plane_yuv(encoding, padding, flavour):
    chroma = CHROMA[encoding]
    step = 4 + padding
    chroma_step = step * chroma.shape[1] // 4
    luma_rows = np.pad(YUV[..., 0], ((0, 0), (0, padding)))
    chroma_rows = np.pad(chroma, ((0, 0), (0, chroma_step - chroma.shape[1])))
    rows = np.concatenate((luma_rows.ravel(), chroma_rows.ravel())).reshape(-1, step)
    message = image_message(rows, encoding, width=4, height=4, flavour=flavour)
    np.testing.assert_allclose(decode_image(message).astype(int), YUV_TRUTH, atol=2)


def test_every_known_encoding_is_tested_here():
    tested = {f'{name}{bits}' for name in PACKED for bits in (8, 16)} | set(UNNAMED)
    tested |= {f'bayer_{p}{bits}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)}
    tested |= {'yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'} | set(CHROMA)
    assert tested == KNOWN_ENCODINGS


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('flavour', FLAVOURS)
def test_rgb8_is_not_copied(flavour, padding):
    message = image_message(RGB, 'rgb8', width=6, padding=padding, flavour=flavour)
    data = np.frombuffer(message.data, np.uint8)
    assert np.shares_memory(decode_image(message), data)


def test_more_data_than_rows_is_accepted():
    message = image_message(RGB, 'rgb8', width=6, height=3)
    np.testing.assert_array_equal(decode_image(message), RGB[:3])


def test_encoding_override_replaces_the_encoding():
    message = image_message(RGB[..., ::-1], 'rgb8', width=6)
    np.testing.assert_array_equal(decode_image(message, 'bgr8'), RGB)
    message.encoding = 'what the driver invented'
    np.testing.assert_array_equal(decode_image(message, encoding_override='bgr8'), RGB)


# ---- bad raw images --------------------------------------------------------------------------


@pytest.mark.parametrize('change', [
    {'width': 0}, {'height': 0}, {'data': b''}, {'data': array.array('B')}])
def test_empty_image(change):
    message = image_message(RGB, 'rgb8', width=6)
    vars(message).update(change)
    with pytest.raises(ImageError, match='empty image: .* pixels, .* bytes; check'):
        decode_image(message)


@pytest.mark.parametrize(('encoding', 'need'), [
    ('rgb8', 18), ('bgra16', 48), ('mono8', 6), ('yuyv', 12), ('nv12', 6)])
def test_step_too_small(encoding, need):
    message = image_message(np.zeros((8, 64), np.uint8), encoding, width=6, height=4)
    message.step = need - 1
    with pytest.raises(ImageError, match=f'step is {need - 1} bytes.*6 pixels.*{need}'):
        decode_image(message)
    message.step = need
    decode_image(message)


@pytest.mark.parametrize(('encoding', 'need'), [('rgb8', 72), ('nv12', 108), ('nv24', 216)])
def test_data_shorter_than_its_rows(encoding, need):
    message = image_message(np.zeros((1, need), np.uint8), encoding, width=6, height=4)
    message.step = 18
    decode_image(message)
    message.data = message.data[:-1]
    with pytest.raises(ImageError, match=f'has {need - 1} bytes.* need {need}: .*truncated'):
        decode_image(message)


def test_unknown_encoding_lists_the_known_and_the_parameter():
    message = image_message(RGB, 'rgb9', width=6)
    with pytest.raises(ImageError, match="'rgb9'.*image.encoding_override.*bayer_rggb8.*rgb8"):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['32FC1', '32FC3'])
def test_float_images_are_refused_with_the_reason(encoding):
    message = image_message(np.zeros((4, 6, 3), np.float32), encoding, width=6)
    with pytest.raises(ImageError, match=f"'{encoding}'.*depth.*colour or mono topic"):
        decode_image(message)


@pytest.mark.parametrize(('encoding', 'height', 'width', 'words'), [
    ('uyvy', 4, 5, 'width must be even, but it is 5'),
    ('nv12', 4, 5, 'width must be even, but it is 5'),
    ('nv21', 5, 4, 'height must be even, but it is 5'),
    ('nv16', 4, 5, 'width must be even, but it is 5'),
    ('nv24', 4, 5, 'width must be even, but it is 5'),
])
def test_odd_yuv_sizes(encoding, height, width, words):
    message = image_message(np.zeros((16, 16), np.uint8), encoding, height=height, width=width)
    with pytest.raises(ImageError, match=words):
        decode_image(message)


def test_bayer_image_too_small():
    message = image_message(np.zeros((2, 2), np.uint8), 'bayer_rggb8', width=2)
    with pytest.raises(ImageError, match='2x2 pixels is too small'):
        decode_image(message)


@pytest.mark.parametrize('data', [[1, 2, 3], 'text', np.zeros((9, 9), np.uint8)[:, ::2]])
def test_data_of_a_strange_type(data):
    message = image_message(RGB, 'rgb8', width=6)
    message.data = data
    with pytest.raises(ImageError, match='cannot be read'):
        decode_image(message)


def test_opencv_errors_are_translated(monkeypatch):
    broken = raw._Packed(1, 2, lambda samples: cv2.cvtColor(samples, 10 ** 6))
    monkeypatch.setitem(raw.PACKED, 'yuyv', broken)
    with pytest.raises(ImageError, match='OpenCV cannot convert 6x4 pixels of yuyv'):
        decode_image(image_message(np.zeros((4, 12), np.uint8), 'yuyv', width=6))


def test_random_raw_messages_raise_nothing_but_image_error():
    rng = np.random.default_rng(20)
    encodings = [*sorted(KNOWN_ENCODINGS), '', '32FC1', 'RGB8', 'bayer_', '\x00']
    decoded = 0
    for _ in range(3000):
        height, width = rng.integers(0, 9, 2).tolist()
        message = SimpleNamespace(
            height=height, width=width, encoding=rng.choice(encodings).item(),
            is_bigendian=int(rng.integers(0, 3)), step=width * 2 + int(rng.integers(-3, 60)),
            data=rng.bytes(int(rng.integers(0, 800))))
        try:
            result = decode_image(message)
        except ImageError:
            continue
        decoded += 1
        assert result.shape == (height, width, 3)
        assert result.dtype == np.uint8
    assert decoded > 300


# ---- compressed images -----------------------------------------------------------------------

SMOOTH = np.stack(np.broadcast_arrays(
    np.arange(0, 192, 3)[None, :], np.arange(0, 240, 5)[:, None], 128), 2).astype(np.uint8)


def encoded(picture, extension):
    """`picture` in OpenCV's order, as the bytes of a file."""
    return cv2.imencode(extension, picture)[1].tobytes()


JPEG = encoded(SMOOTH[..., ::-1], '.jpg')
PNG = encoded(SMOOTH[..., ::-1], '.png')


@pytest.mark.parametrize('flavour', FLAVOURS)
@pytest.mark.parametrize('message_format', [
    'jpeg', 'jpg', '', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8',
    'rgb8; jpeg compressed rgb8', 'bgr8; jpeg compressed '])
def test_jpeg(message_format, flavour):
    result = decode_compressed(compressed_message(JPEG, message_format, flavour))
    assert result.shape == SMOOTH.shape
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result.astype(int), SMOOTH, atol=8)


@pytest.mark.parametrize('sixteen', [False, True])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_png_of_every_depth(channels, sixteen):
    picture = {1: SMOOTH[..., 0], 3: SMOOTH[..., ::-1],
               4: np.dstack((SMOOTH[..., ::-1], SMOOTH[..., 0]))}[channels]
    if sixteen:
        picture = picture.astype(np.uint16) << 8 | LOW_BYTE
    expected = SMOOTH[..., :1].repeat(3, 2) if channels == 1 else SMOOTH
    result = decode_compressed(compressed_message(encoded(picture, '.png'),
                                                  'bgr8; png compressed '))
    np.testing.assert_array_equal(result, expected)


def test_grey_jpeg_has_three_equal_channels():
    data = encoded(np.full((8, 9), 77, np.uint8), '.jpg')
    result = decode_compressed(compressed_message(data, 'mono8; jpeg compressed '))
    np.testing.assert_array_equal(result, np.full((8, 9, 3), 77))


@pytest.mark.parametrize('message_format', ['mono16; png compressed ', '16UC1; png compressed '])
def test_a_compressed_thermal_image_becomes_black_to_white(message_format):
    values = np.linspace(7200, 8200, 4800).reshape(60, 80).astype(np.uint16)
    result = decode_compressed(compressed_message(encoded(values, '.png'), message_format))
    assert (result[0, 0, 0], result[-1, -1, 0]) == (0, 255)
    assert len(np.unique(result)) == 256


def test_compressed_bayer_mosaic_is_demosaiced():
    data = encoded(mosaic_of((200, 100, 50), 'grbg'), '.png')
    result = decode_compressed(compressed_message(data, 'bayer_grbg8; png compressed '))
    np.testing.assert_array_equal(result, np.broadcast_to((200, 100, 50), (6, 8, 3)))


def with_segment(jpeg, marker, payload):
    """`jpeg` with one more segment behind its start marker."""
    length = (len(payload) + 2).to_bytes(2, 'big')
    return jpeg[:2] + b'\xff' + bytes([marker]) + length + payload + jpeg[2:]


def test_exif_rotation_is_ignored():
    one_entry = b'\x01\x00' + b'\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00' + bytes(4)
    exif = b'Exif\x00\x00' + b'II*\x00\x08\x00\x00\x00' + one_entry
    rotated = with_segment(JPEG, 0xE1, exif)
    assert cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    assert decode_compressed(compressed_message(rotated)).shape == (48, 64, 3)


def test_decode_takes_either_message():
    raw = image_message(RGB[..., ::-1], 'rgb8', width=6)
    np.testing.assert_array_equal(decode(raw, 'bgr8'), RGB)
    np.testing.assert_array_equal(decode(compressed_message(PNG, 'png')), SMOOTH)


@pytest.mark.parametrize('padding', [b'\x00', b'\x00' * 500, b'\xff' * 3, b'anything else'])
def test_padding_behind_the_end_marker_is_no_harm(padding):
    result = decode_compressed(compressed_message(JPEG + padding))
    np.testing.assert_allclose(result.astype(int), SMOOTH, atol=8)


@pytest.mark.parametrize('padding', [b'', b'\x00' * 500])
@pytest.mark.parametrize('kept', [0.1, 0.5, 0.9, 0.999])
def test_truncated_jpeg(kept, padding):
    data = JPEG[:int(kept * len(JPEG))] + padding
    with pytest.raises(ImageError, match=f'truncated JPEG: .* in {len(data)} bytes'):
        decode_compressed(compressed_message(data))


def test_end_marker_of_a_thumbnail_does_not_hide_the_truncation():
    data = with_segment(JPEG, 0xE1, b'Exif\x00\x00' + encoded(RGB, '.jpg'))
    decode_compressed(compressed_message(data))
    with pytest.raises(ImageError, match='truncated JPEG'):
        decode_compressed(compressed_message(data[:-40]))


@pytest.mark.parametrize('kept', [0.1, 0.5, 0.9])
def test_truncated_png(kept):
    with pytest.raises(ImageError, match='truncated PNG'):
        decode_compressed(compressed_message(PNG[:int(kept * len(PNG))], 'png'))


@pytest.mark.parametrize(('data', 'message_format', 'words'), [
    (b'', 'jpeg', '0 bytes'),
    (b'\x00' * 40, 'jpeg', "40 bytes that start with 00 00 00 00 .*'jpeg'.*JPEG or PNG"),
    (b'\x00\x00\x00\x01\x67rest', 'h264', "'h264'"),
    (PNG, '16UC1; compressedDepth png', 'depth image'),
])
def test_what_is_no_picture(data, message_format, words):
    with pytest.raises(ImageError, match=words):
        decode_compressed(compressed_message(data, message_format))


@pytest.mark.parametrize('flavour', FLAVOURS)
def test_damaged_pictures_raise_nothing_but_image_error(flavour, capfd):
    rng = np.random.default_rng(21)
    for source in (JPEG, PNG, rng.bytes(200)):
        for _ in range(100):
            data = bytearray(source[:rng.integers(0, len(source) + 1)])
            for position in rng.integers(0, len(data), 4) if data else ():
                data[position] = rng.integers(0, 256)
            try:
                result = decode_compressed(compressed_message(data, 'jpeg', flavour))
            except ImageError:
                continue
            assert result.ndim == 3
            assert result.dtype == np.uint8
    capfd.readouterr()  # the decoders of libjpeg and libpng complain on stderr


# ---- files -----------------------------------------------------------------------------------


def test_a_file_is_read_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / 'image.png'), RGB[..., ::-1])
    assert np.array_equal(read_image(tmp_path / 'image.png'), RGB)
    assert read_image(RGB) is RGB


@pytest.mark.parametrize(('data', 'words'), [
    (JPEG[:-30], r'image.jpg: truncated JPEG: no end-of-image marker in \d+ bytes; copy or save'),
    (PNG[:-30], 'image.jpg: truncated PNG: no IEND chunk'),
    (b'no picture', 'image.jpg: 10 bytes that start with 6e 6f 20 70 are no picture'),
    (b'', 'image.jpg: it is empty, 0 bytes'),
    (None, 'image.jpg cannot be read: No such file'),
])
def test_a_file_that_is_no_whole_picture_is_named(tmp_path, data, words):
    if data is not None:
        (tmp_path / 'image.jpg').write_bytes(data)
    with pytest.raises(ImageError, match=words):
        read_image(tmp_path / 'image.jpg')


def chunk(kind, data):
    return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')


def png_that_states(width, height):
    """A small PNG whose header states a large size."""
    stated = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + b'\x08\x02\x00\x00\x00'
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', stated)
            + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('size', [(40_000, 30_000), (10_000, 10_000), (7501, 6667)])
def test_a_size_is_read_before_it_is_allocated(tmp_path, size):
    path = tmp_path / 'image.png'
    path.write_bytes(png_that_states(*size))
    tracemalloc.start()
    with pytest.raises(ImageError, match='image.png: .* at most 50 megapixels'):
        read_image(path)
    with pytest.raises(ImageError, match='at most 50 megapixels'):
        decode_compressed(compressed_message(path.read_bytes(), 'png'))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_chunk_longer_than_its_file_is_no_whole_picture():
    length = PNG.index(b'IDAT') - 4
    data = PNG[:length] + b'\x7f' + PNG[length + 1:]
    with pytest.raises(ImageError, match='truncated PNG'):
        decode_compressed(compressed_message(data, 'png'))


def as_file(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return read_image(path)


@pytest.mark.parametrize('extension', ['jpg', 'png', 'bmp', 'tif', 'webp', 'ppm'])
@pytest.mark.parametrize('kept', [0.25, 0.5, 0.9])
def test_a_file_that_was_cut_is_refused_whatever_its_format(tmp_path, extension, kept):
    path = tmp_path / f'image.{extension}'
    assert as_file(path, SMOOTH).shape == SMOOTH.shape
    path.write_bytes(path.read_bytes()[:int(kept * path.stat().st_size)])
    with pytest.raises(ImageError, match=f'image.{extension}: .*; copy or save it again'):
        read_image(path)


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_a_file_is_turned_as_its_exif_data_say(tmp_path, extension):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = as_file(tmp_path / f'image.{extension}', SMOOTH, exif=exif)
    np.testing.assert_allclose(found.astype(int), np.rot90(SMOOTH, -1), atol=8)


def test_alpha_and_palette_and_cmyk_are_read_as_rgb(tmp_path):
    alpha = np.dstack((SMOOTH, SMOOTH[..., 0]))
    assert np.array_equal(as_file(tmp_path / 'alpha.png', alpha), SMOOTH)
    grey = as_file(tmp_path / 'grey_alpha.png', np.dstack((SMOOTH[..., 0], SMOOTH[..., 1])))
    assert np.array_equal(grey, SMOOTH[..., :1].repeat(3, 2))
    Image.fromarray(SMOOTH).convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=95)
    np.testing.assert_allclose(read_image(tmp_path / 'cmyk.jpg').astype(int), SMOOTH, atol=12)
    Image.fromarray(SMOOTH).quantize(256).save(tmp_path / 'palette.png')
    np.testing.assert_allclose(read_image(tmp_path / 'palette.png').astype(int), SMOOTH, atol=20)


def test_the_first_of_several_frames_is_read(tmp_path):
    others = [Image.fromarray(255 - SMOOTH)]
    for name in ('animated.png', 'pages.tif'):
        found = as_file(tmp_path / name, SMOOTH, save_all=True, append_images=others)
        assert np.array_equal(found, SMOOTH)


@pytest.mark.parametrize('extension', ['png', 'tif', 'pgm'])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_file_of_12_bits_is_as_bright_as_one_of_8(tmp_path, extension, channels):
    path = tmp_path / f'image.{extension}'
    path = path.with_suffix('.ppm') if (extension, channels) == ('pgm', 3) else path
    cv2.imwrite(str(path), SMOOTH[..., :channels][..., ::-1].astype(np.uint16) << 4)
    wanted = SMOOTH[..., :channels] * (255 / SMOOTH[..., :channels].max())
    np.testing.assert_allclose(read_image(path).astype(int), np.broadcast_to(
        wanted, SMOOTH.shape), atol=8)


def test_a_file_of_floating_point_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / 'image.tif'), SMOOTH.astype(np.float32))
    with pytest.raises(ImageError, match='image.tif: '):
        read_image(tmp_path / 'image.tif')


# ---- what the settings ask for ---------------------------------------------------------------


def rgb_message(image):
    return image_message(image, 'rgb8', width=image.shape[1])


def test_a_reader_turns_clockwise():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for degrees in (0, 90, 180, 270):
        reader = ImageReader(ImageSettings(rotate_deg=degrees))
        assert np.array_equal(reader(rgb_message(image)), np.rot90(image, -degrees // 90))


def test_a_reader_blanks_where_the_mask_is_black(tmp_path):
    mask = np.full((2, 3), 255, np.uint8)
    mask[0, 1] = 0
    cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    reader = ImageReader(ImageSettings(mask=str(tmp_path / 'mask.png')))
    image = np.full((2, 3, 3), 9, np.uint8)
    assert reader(rgb_message(image))[..., 0].tolist() == [[9, 0, 9], [9, 9, 9]]
    assert (image == 9).all()
    with pytest.raises(ImageError, match='image.mask has 3x2 pixels, but the image 4x4'):
        reader(rgb_message(np.zeros((4, 4, 3), np.uint8)))


def test_a_reader_shows_a_thermal_camera_steadily():
    read = ImageReader(ImageSettings())
    values = np.linspace(7200, 8200, 4800).reshape(60, 80).astype('<u2')
    raw = image_message(values, 'mono16', width=80)
    hot = values.copy()
    hot[:, :10] = 20_000
    first, *others = (read(raw) for _ in range(5))
    assert all(np.array_equal(other, first) for other in others)
    assert np.array_equal(read(image_message(hot, 'mono16', width=80))[:, 10:], first[:, 10:])
    small = compressed_message(encoded(hot, '.png'), 'mono16; png compressed ')
    assert np.array_equal(read(small)[:, 10:], first[:, 10:])


def test_a_reader_refuses_a_topic_of_depth():
    depth = image_message(np.full((4, 6), 900, '<u2'), '16UC1', width=6)
    ImageReader(ImageSettings(), topic='/thermal/image_raw')(depth)
    with pytest.raises(DepthError, match='/camera/depth/image_raw is depth'):
        ImageReader(ImageSettings(), topic='/camera/depth/image_raw')(depth)


def test_a_mask_is_read_as_strictly_as_an_image(tmp_path):
    path = tmp_path / 'mask.png'
    path.write_bytes(encoded(np.full((40, 60), 255, np.uint8), '.png')[:-20])
    with pytest.raises(SettingError, match='image.mask: .*mask.png: truncated PNG'):
        ImageReader(ImageSettings(mask=str(path)))


def test_a_reader_takes_another_encoding_and_another_decoder():
    image = np.full((2, 2, 3), (1, 2, 3), np.uint8)
    reader = ImageReader(ImageSettings(encoding_override='bgr8'))
    assert reader(rgb_message(image))[0, 0].tolist() == [3, 2, 1]
    other = ImageReader(ImageSettings(), lambda message, encoding, steady: image + 1)
    assert other(None)[0, 0].tolist() == [2, 3, 4]


@pytest.mark.parametrize(('settings', 'words'), [
    (ImageSettings(rotate_deg=45), 'rotate_deg = 45 is none of 0, 90, 180, 270'),
    (ImageSettings(mask='/no/mask.png'), 'image.mask: /no/mask.png cannot be read: No such file'),
])
def test_a_reader_refuses_what_cannot_be(settings, words):
    with pytest.raises(SettingError, match=words):
        ImageReader(settings)


def test_no_ros_is_imported():
    code = ('import sys, selavpr_ros.images.decoding as m; '
            "sys.exit(any(name.startswith(('rclpy', 'sensor_msgs')) for name in sys.modules))")
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
