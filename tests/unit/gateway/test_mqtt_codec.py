"""The codec: captured packets mean what they meant, and nothing raises anything but our own error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import codec
from service.gateway.errors import (
    GatewayError,
    MalformedPacketError,
    UnsupportedProtocolError,
    UnsupportedQosError,
)

# Captured from mosquitto_pub and mosquitto_sub 2.0.11 (-i probe -u user -P pass -q 1 -k 60) on loopback.
CAPTURED_CONNECT = bytes.fromhex("101d00044d51545404c2003c000570726f6265000475736572000470617373")
CAPTURED_PUBLISH = bytes.fromhex("32090003612f6200016869")
CAPTURED_SUBSCRIBE = bytes.fromhex("820a00010005612f2b2f2301")


def frames_of(data: bytes) -> list[codec.Frame]:
    return codec.FrameReader(268_435_455).feed(data)


def body_of(data: bytes) -> bytes:
    ((_, body),) = frames_of(data)
    return body


def test_captured_connect_is_understood() -> None:
    """Client id, user name and keep alive are where the specification puts them; the password is skipped."""
    connect = codec.parse_connect(body_of(CAPTURED_CONNECT))
    assert connect == codec.Connect("probe", "user", 60, clean_session=True, will=None)


def test_captured_publish_is_understood() -> None:
    """QoS 1: topic, packet identifier and payload."""
    ((header, body),) = frames_of(CAPTURED_PUBLISH)
    assert codec.split_publish(header, body) == (b"a/b", b"\x00\x01", b"hi")


def test_captured_subscribe_is_understood() -> None:
    """One filter with both wildcards, QoS 1."""
    ((header, body),) = frames_of(CAPTURED_SUBSCRIBE)
    assert (header, codec.parse_subscribe(body)) == (codec.SUBSCRIBE, (1, (("a/+/#", 1),)))


def test_connect_with_will_is_understood() -> None:
    """Will topic and message come before the user name (section 3.1.3)."""
    body = b"\0\4MQTT\x04\x2e\0\x0a\0\1c\0\3w/t\0\2by"
    assert codec.parse_connect(body) == codec.Connect("c", None, 10, clean_session=True, will=codec.Will("w/t", b"by"))


MALFORMED_CONNECTS = {
    "protocol_name": (b"\0\4MQTX\x04\x02\0\0\0\1c", "protocol name"),
    "reserved_flag": (b"\0\4MQTT\x04\x03\0\0\0\1c", r"MQTT-3\.1\.2-3"),
    "will_qos_without_will": (b"\0\4MQTT\x04\x0a\0\0\0\1c", r"MQTT-3\.1\.2-13"),
    "will_retain_without_will": (b"\0\4MQTT\x04\x22\0\0\0\1c", "without a will"),
    "will_qos_3": (b"\0\4MQTT\x04\x1e\0\0\0\1c\0\1w\0\0", r"MQTT-3\.1\.2-14"),
    "password_without_username": (b"\0\4MQTT\x04\x42\0\0\0\1c\0\1p", r"MQTT-3\.1\.2-22"),
    "trailing_bytes": (b"\0\4MQTT\x04\x02\0\0\0\1c?", "1 more bytes"),
    "truncated": (b"\0\4MQTT\x04\x02\0\0\0\2c", "expected 2 bytes, found 1"),
    "surrogate": (b"\0\4MQTT\x04\x02\0\0\0\3\xed\xa0\x80", "UTF-8"),
    "nul": (b"\0\4MQTT\x04\x02\0\0\0\1\0", r"MQTT-1\.5\.3-2"),
    "wildcard_will": (b"\0\4MQTT\x04\x06\0\0\0\1c\0\1#\0\0", r"MQTT-3\.3\.2-2"),
}


@pytest.mark.parametrize("case", MALFORMED_CONNECTS)
def test_malformed_connect_is_refused(case: str) -> None:
    """Each breaks one rule, which the message names."""
    body, message = MALFORMED_CONNECTS[case]
    with pytest.raises(MalformedPacketError, match=message):
        codec.parse_connect(body)


@pytest.mark.parametrize("start", [b"\0\6MQIsdp\x03", b"\0\4MQTT\x05", b"\0\4MQTT\x03"])
def test_other_protocol_levels_are_told_apart(start: bytes) -> None:
    """MQTT 3.1 and 5 are no malformed packets: they get CONNACK 1 [MQTT-3.1.2-2]."""
    with pytest.raises(UnsupportedProtocolError, match="expected 4"):
        codec.parse_connect(start + b"\x02\0\0\0\1c")


def test_will_of_qos_2_is_refused() -> None:
    """QoS 2 is offered nowhere."""
    with pytest.raises(UnsupportedQosError, match="will QoS"):
        codec.parse_connect(b"\0\4MQTT\x04\x16\0\0\0\1c\0\1w\0\0")


MALFORMED_PUBLISHES = {
    "qos_3": (0x36, b"\0\1t\0\1", r"MQTT-3\.3\.1-4"),
    "dup_at_qos_0": (0x38, b"\0\1t", r"MQTT-3\.3\.1-2"),
    "packet_id_0": (0x32, b"\0\1t\0\0", "not 0"),
    "no_packet_id": (0x32, b"\0\1t\1", "packet identifier"),
    "empty": (0x32, b"", "topic name"),
    "topic_beyond_end_qos_1": (0x32, b"\xff\xfft", "topic name"),
    "topic_beyond_end_qos_0": (0x30, b"\0\2t", "topic name"),
    "empty_qos_0": (0x30, b"\0", "topic name"),
}


@pytest.mark.parametrize("case", MALFORMED_PUBLISHES)
def test_malformed_publish_is_refused(case: str) -> None:
    """Each breaks one rule."""
    header, body, message = MALFORMED_PUBLISHES[case]
    with pytest.raises(MalformedPacketError, match=message):
        codec.split_publish(header, body)


def test_publish_of_qos_2_is_refused() -> None:
    """The connection will be closed."""
    with pytest.raises(UnsupportedQosError, match="found 2"):
        codec.split_publish(0x34, b"\0\1t\0\1")


def test_publish_of_qos_0_has_no_packet_identifier() -> None:
    """The payload starts right after the topic; RETAIN is allowed and means nothing here."""
    assert codec.split_publish(0x31, b"\0\1tpayload") == (b"t", b"", b"payload")


@pytest.mark.parametrize("topic", ["", "a/#", "+/b"])
def test_topic_names_hold_no_wildcard(topic: str) -> None:
    """[MQTT-4.7.3-1], [MQTT-3.3.2-2]."""
    with pytest.raises(MalformedPacketError, match="topic name"):
        codec.check_topic_name(topic)


@pytest.mark.parametrize("topic_filter", ["", "a#", "a/#/b", "a+", "a/b+/c", "#/"])
def test_wildcards_of_filters_fill_their_level(topic_filter: str) -> None:
    """[MQTT-4.7.1-2], [MQTT-4.7.1-3]."""
    with pytest.raises(MalformedPacketError, match="topic filter"):
        codec.check_topic_filter(topic_filter)


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/+/b/#", "/", "a//b", "$iothub/twin/res/#"])
def test_lawful_filters_pass(topic_filter: str) -> None:
    """Empty levels are levels."""
    codec.check_topic_filter(topic_filter)


def test_subscribe_keeps_the_order_of_its_filters() -> None:
    """Return codes are given in that order [MQTT-3.9.3-1]."""
    packet_id, requests = codec.parse_subscribe(b"\0\x0a\0\1a\1\0\1b\2\0\1a\0")
    assert (packet_id, requests) == (10, (("a", 1), ("b", 2), ("a", 0)))


@pytest.mark.parametrize("body", [b"\0\1", b"\0\0\0\1a\1", b"\0\1\0\1a\3", b"\0\1\0\1a", b"\1"])
def test_malformed_subscribe_is_refused(body: bytes) -> None:
    """No filter, packet identifier 0, QoS 3, no QoS, half a packet identifier."""
    with pytest.raises(MalformedPacketError, match="expected"):
        codec.parse_subscribe(body)


@pytest.mark.parametrize("body", [b"\0\1", b"\0\0\0\1a", b"\0\1\0\2a"])
def test_malformed_unsubscribe_is_refused(body: bytes) -> None:
    """No filter, packet identifier 0, truncated filter."""
    with pytest.raises(MalformedPacketError, match="expected"):
        codec.parse_unsubscribe(body)


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\1\0"])
def test_malformed_puback_is_refused(body: bytes) -> None:
    """Exactly a packet identifier that is not 0."""
    with pytest.raises(MalformedPacketError, match="expected"):
        codec.parse_puback(body)


@given(st.binary(max_size=64), st.integers(0, 255))
def test_any_body_gives_a_result_or_our_error(body: bytes, header: int) -> None:
    """Random bytes into every parser."""
    for parse in (codec.parse_connect, codec.parse_subscribe, codec.parse_unsubscribe, codec.parse_puback):
        _only_our_error(parse, body)
    _only_our_error(lambda raw: codec.split_publish(header & 0x0F | codec.PUBLISH, raw), body)


@given(st.binary(max_size=40), st.integers(0, 29))
def test_damaged_connect_gives_a_result_or_our_error(damage: bytes, position: int) -> None:
    """Random bytes over a good CONNECT reach deeper than random bytes alone."""
    body = body_of(CAPTURED_CONNECT)
    _only_our_error(codec.parse_connect, body[:position] + damage + body[position + len(damage) :])


def _only_our_error(parse: object, body: bytes) -> None:
    assert callable(parse)
    try:
        parse(body)
    except GatewayError:
        return


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8), st.data())
def test_frames_do_not_depend_on_how_they_arrive(frames: list[codec.Frame], data: st.DataObject) -> None:
    """Cut anywhere, a stream gives the same frames."""
    stream = b"".join(_frame(header, body) for header, body in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = codec.FrameReader(1_000)
    received: list[codec.Frame] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:stop])
    assert received == frames


def _frame(header: int, body: bytes) -> bytes:
    low, high = len(body) & 0x7F, len(body) >> 7
    return bytes((header, low | 0x80, high) if high else (header, low)) + body


@given(st.binary(max_size=2_000), st.integers(1, 50))
def test_any_stream_gives_frames_or_our_error(stream: bytes, step: int) -> None:
    """Random bytes, a few at a time, into the frame reader."""
    reader = codec.FrameReader(500)
    try:
        for start in range(0, len(stream), step):
            assert all(len(body) <= 500 for _, body in reader.feed(stream[start : start + step]))
    except MalformedPacketError:
        return


@pytest.mark.parametrize(
    ("length", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"), (2_097_152, "80808001")],
)
def test_remaining_length_has_the_encoding_of_the_specification(length: int, encoded: str) -> None:
    """Table 2.4 of section 2.2.3, read back from a packet that we make."""
    head = b"\x30" + bytes.fromhex(encoded)
    assert codec.FrameReader(length).feed(head + bytes(length)) == [(0x30, bytes(length))]
    if length > 1:
        assert codec.publish("", bytes(length - 2)) == head + bytes(length)


def test_remaining_length_of_five_bytes_is_refused() -> None:
    """Section 2.2.3 allows four."""
    with pytest.raises(MalformedPacketError, match="at most 4 bytes"):
        codec.FrameReader(500).feed(b"\x30\xff\xff\xff\xff\x01")


def test_oversized_packet_is_refused_before_it_arrives() -> None:
    """The announced length is enough."""
    with pytest.raises(MalformedPacketError, match="expected at most 500"):
        codec.FrameReader(500).feed(b"\x30\xf5\x03")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200), st.binary())
def test_what_we_publish_reads_back(topic: str, payload: bytes) -> None:
    """Serialiser and parser agree, with and without a packet identifier."""
    ((header, body),) = frames_of(codec.publish(topic, payload, packet_id=515, dup=True))
    assert (header, codec.split_publish(header, body)) == (0x3A, (topic.encode(), b"\x02\x03", payload))
    ((header, body),) = frames_of(codec.publish(topic, payload))
    assert (header, codec.split_publish(header, body)) == (0x30, (topic.encode(), b"", payload))


def test_acknowledgements_have_the_layout_of_the_specification() -> None:
    """Figures 3.8, 3.24 and 3.30."""
    assert codec.connack(5) == b"\x20\x02\x00\x05"
    assert codec.connack(0, session_present=True) == b"\x20\x02\x01\x00"
    assert codec.suback(258, (1, 0x80)) == b"\x90\x04\x01\x02\x01\x80"
    assert codec.unsuback(258) == b"\xb0\x02\x01\x02"
