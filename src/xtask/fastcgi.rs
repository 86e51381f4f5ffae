//! One FastCGI request as a web server sends it (FastCGI 1.0, sections 3 to 5): begin, parameters, body; back come
//! the page, error lines and an end record. Only what a test needs: one request per connection, the responder role.

use crate::servers::Request;
use std::io::{self, Read, Write};
use std::path::Path;

const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
/// The most a record carries: its length field has 16 bits.
const RECORD: usize = 65_535;

/// Sends the request and reads the whole answer: header lines, an empty line, the body. `None` when the connection
/// ended before the end record, that is, when the worker died.
///
/// # Errors
/// When the socket fails otherwise.
pub(crate) fn request(
    mut stream: impl Read + Write,
    file: &Path,
    request: &Request,
) -> io::Result<Option<Vec<u8>>> {
    let body = request.post.as_deref().unwrap_or_default();
    let length = body.len().to_string();
    let name = file
        .file_name()
        .map(|name| format!("/{}", name.to_string_lossy()))
        .unwrap_or_default();
    let script = file.to_string_lossy();
    let uri = if request.query.is_empty() {
        name.clone()
    } else {
        format!("{name}?{}", request.query)
    };
    let mut pairs = vec![
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", "xtask"),
        ("SERVER_NAME", "127.0.0.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        (
            "REQUEST_METHOD",
            if request.post.is_some() {
                "POST"
            } else {
                "GET"
            },
        ),
        ("SCRIPT_FILENAME", &script),
        ("SCRIPT_NAME", &name),
        ("REQUEST_URI", &uri),
        ("QUERY_STRING", &request.query),
    ];
    if request.post.is_some() {
        pairs.push(("CONTENT_TYPE", "application/x-www-form-urlencoded"));
        pairs.push(("CONTENT_LENGTH", &length));
    }
    if let Some(cookie) = &request.cookie {
        pairs.push(("HTTP_COOKIE", cookie));
    }
    let mut params = Vec::new();
    for (name, value) in pairs {
        put_length(&mut params, name.len());
        put_length(&mut params, value.len());
        params.extend_from_slice(name.as_bytes());
        params.extend_from_slice(value.as_bytes());
    }
    let mut bytes = Vec::new();
    // Role 1 is the responder; no flags: the server closes the connection.
    put_record(&mut bytes, BEGIN, &[0, 1, 0, 0, 0, 0, 0, 0]);
    put_stream(&mut bytes, PARAMS, &params);
    put_stream(&mut bytes, STDIN, body.as_bytes());
    stream.write_all(&bytes)?;
    stream.flush()?;
    answer(stream)
}

fn answer(mut stream: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut page = Vec::new();
    loop {
        let mut head = [0; 8];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let [_version, kind, _, _, high, low, padding, _] = head;
        let mut content = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut content)?;
        let mut fill = vec![0; usize::from(padding)];
        stream.read_exact(&mut fill)?;
        match kind {
            STDOUT => page.extend_from_slice(&content),
            END => return Ok(Some(page)),
            // Error lines are in php-fpm's log as well.
            _ => {}
        }
    }
}

/// A length of a name or value: one byte below 128, else four with the top bit set.
fn put_length(to: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 128 => to.push(short),
        _ => {
            let long = u32::try_from(length).unwrap_or(u32::MAX) | 0x8000_0000;
            to.extend_from_slice(&long.to_be_bytes());
        }
    }
}

/// A stream is records and an empty one that ends it.
fn put_stream(to: &mut Vec<u8>, kind: u8, content: &[u8]) {
    for piece in content.chunks(RECORD) {
        put_record(to, kind, piece);
    }
    put_record(to, kind, b"");
}

fn put_record(to: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [high, low] = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    // Version 1, request id 1, no padding.
    to.extend_from_slice(&[1, kind, 0, 1, high, low, 0, 0]);
    to.extend_from_slice(content);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_has_a_four_byte_length() {
        let mut bytes = Vec::new();
        put_length(&mut bytes, 127);
        put_length(&mut bytes, 128);
        assert_eq!(bytes, [127, 0x80, 0, 0, 128]);
    }

    #[test]
    fn the_page_is_put_together_from_its_records() {
        let mut bytes = Vec::new();
        put_record(&mut bytes, STDOUT, b"one ");
        put_record(&mut bytes, 7, b"an error line");
        put_record(&mut bytes, STDOUT, b"two");
        put_record(&mut bytes, END, &[0; 8]);
        assert_eq!(answer(&bytes[..]).unwrap().unwrap(), b"one two");
    }

    #[test]
    fn a_worker_that_dies_gives_no_page() {
        let mut bytes = Vec::new();
        put_record(&mut bytes, STDOUT, b"half");
        assert_eq!(answer(&bytes[..]).unwrap(), None);
    }
}
