//! The parts of a `multipart/form-data` body that is already in memory (RFC 7578).

use crate::ApiError;

/// One part: its name and content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) name: String,
    pub(crate) content: &'a [u8],
}

/// Splits a body at the boundary that the content type names.
pub(crate) fn parts<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, ApiError> {
    let boundary = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty());
    let boundary = boundary.ok_or_else(|| malformed("no boundary in the content type"))?;
    let delimiter = format!("--{boundary}").into_bytes();
    let start = find(body, &delimiter).ok_or_else(|| malformed("no part"))?;
    let mut rest = &body[start + delimiter.len()..];
    let delimiter = [b"\r\n", &delimiter[..]].concat();
    let mut found = Vec::new();
    while !rest.starts_with(b"--") {
        let content = rest.strip_prefix(b"\r\n").ok_or_else(|| malformed("a part without its headers"))?;
        let end = find(content, &delimiter).ok_or_else(|| malformed("the last boundary is missing"))?;
        found.push(part(&content[..end])?);
        rest = &content[end + delimiter.len()..];
    }
    Ok(found)
}

fn part(bytes: &[u8]) -> Result<Part<'_>, ApiError> {
    let headers_end = find(bytes, b"\r\n\r\n").ok_or_else(|| malformed("a part without its headers"))?;
    let headers = String::from_utf8_lossy(&bytes[..headers_end]);
    let name = headers.lines().find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.eq_ignore_ascii_case("content-disposition").then(|| parameter(value, "name"))?
    });
    let name = name.ok_or_else(|| malformed("a part without a name"))?;
    Ok(Part { name, content: &bytes[headers_end + 4..] })
}

/// A parameter of a header such as `form-data; name="profile"`.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // Bodies are megabytes of packed bytes: jump from one occurrence of the first byte to the next.
    let (&first, rest) = needle.split_first()?;
    let mut from = 0;
    loop {
        let at = from + haystack.get(from..)?.iter().position(|&byte| byte == first)?;
        if haystack[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn malformed(what: &str) -> ApiError {
    ApiError::IngestFormat { what: format!("malformed multipart body: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"preamble\r\n--xx\r\nContent-Disposition: form-data; name=\"profile\"; filename=\"a\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n\x1f\x8b\r\n--x\r\n--xx\r\n\
        content-disposition: form-data; name=sample_type_config\r\n\r\n\r\n--xx--\r\n";

    #[test]
    fn splits_at_the_boundary_only() {
        let parts = parts("multipart/form-data; boundary=\"xx\"", BODY).unwrap();
        let found: Vec<(&str, &[u8])> = parts.iter().map(|part| (part.name.as_str(), part.content)).collect();
        assert_eq!(found, [("profile", &b"\x1f\x8b\r\n--x"[..]), ("sample_type_config", b"")]);
    }

    #[test]
    fn every_cut_is_an_error() {
        let end = BODY.len() - b"--\r\n".len();
        for cut in 0..=end {
            assert!(parts("multipart/form-data; boundary=xx", &BODY[..cut]).is_err(), "{cut}");
        }
        assert!(parts("multipart/form-data", BODY).is_err());
        assert!(parts("multipart/form-data; boundary=yy", BODY).is_err());
    }
}
