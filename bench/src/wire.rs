//! Where an HTTP/1.1 message ends, as far as the programs that are measured write any.

/// A whole message at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// Bytes of its head.
    pub head: usize,
    /// Bytes of all of it.
    pub end: usize,
}

impl Message {
    /// None as long as it is not whole.
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

/// The value of a header field; `name` is in small letters, with its colon.
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
