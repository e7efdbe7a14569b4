//! Finds the end of an HTTP/1.1 message, for the kinds of messages that the measured programs write.

/// The size of a complete message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// The length of its head in bytes.
    pub head: usize,
    /// Its whole length in bytes.
    pub end: usize,
}

impl Message {
    /// The message at the beginning of the bytes; `None` if it is incomplete.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let head = find(bytes, b"\r\n\r\n")? + 4;
        if let Some(length) = field(&bytes[..head], b"content-length:") {
            let end = head
                + std::str::from_utf8(length)
                    .ok()?
                    .trim()
                    .parse::<usize>()
                    .ok()?;
            return (bytes.len() >= end).then_some(Self { head, end });
        }
        if field(&bytes[..head], b"transfer-encoding:").is_none() {
            return Some(Self { head, end: head });
        }
        let last_chunk = find(&bytes[head - 2..], b"\r\n0\r\n\r\n")?;
        let end = head - 2 + last_chunk + 7;
        Some(Self { head, end })
    }
}

/// The value of a header field; `name` is in lower case, with its colon.
fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let lines = head.split(|byte| *byte == b'\n');
    let mut values = lines.filter_map(|line| {
        let (start, value) = line.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(value)
    });
    values.next()
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
