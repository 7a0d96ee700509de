//! The web page, out of the binary.
//!
//! Files come packed from the build. Those with a hash in their name never change and are cached for good; the rest
//! is asked for again each time and answered by `ETag`.

use std::io::Read;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;

use crate::ApiError;
use crate::connect::accepts_gzip;

mod files {
    use super::File;

    include!(concat!(env!("OUT_DIR"), "/page.rs"));
}

/// A file of the page.
struct File {
    /// Relative to the page's root.
    path: &'static str,
    etag: &'static str,
    gzip: &'static [u8],
}

/// Everything the page loads is its own; no script stands in the markup.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers every path that no other route has.
pub(crate) async fn fallback(request: Request) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::NotFound { path: path.to_owned() }.into_response();
    }
    let wanted = path.trim_start_matches('/');
    let wanted = if wanted.is_empty() { "index.html" } else { wanted };
    match files::FILES.iter().find(|file| file.path == wanted) {
        Some(file) => respond(file, request.headers()),
        None if files::FILES.is_empty() && path == "/" => {
            (StatusCode::NOT_FOUND, "this build of Pyrite has no page; the API works\n").into_response()
        }
        None => ApiError::NotFound { path: path.to_owned() }.into_response(),
    }
}

fn respond(file: &File, request: &HeaderMap) -> Response {
    let cache = if is_hashed(file.path) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, media_type(file.path)),
        (header::CACHE_CONTROL, cache),
        (header::ETAG, file.etag),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if known
        .split(',')
        .any(|etag| matches!(etag.trim(), "*") || etag.trim().trim_start_matches("W/") == file.etag)
    {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    if accepts_gzip(request) {
        let mut response = (headers, file.gzip).into_response();
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return response;
    }
    let mut plain = Vec::new();
    match GzDecoder::new(file.gzip).read_to_end(&mut plain) {
        Ok(_) => (headers, plain).into_response(),
        Err(error) => ApiError::Internal { reason: error.to_string() }.into_response(),
    }
}

/// Whether a name carries the hash of its content, as the page's build names them: `assets/index-Ab3_x9Zq.js`.
fn is_hashed(path: &str) -> bool {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    path.starts_with("assets/")
        && stem.len() > 8
        && stem.is_char_boundary(stem.len() - 8)
        && stem[..stem.len() - 8].ends_with('-')
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, suffix)| suffix) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyrite_model::pprof::gzip;

    fn file(path: &'static str) -> File {
        File { path, etag: "\"e1\"", gzip: Box::leak(gzip(b"content").into_boxed_slice()) }
    }

    fn header_of(response: &Response, name: header::HeaderName) -> &str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn hashed_names_are_cached_for_good() {
        let plain = HeaderMap::new();
        let response = respond(&file("assets/index-Ab3_x9Zq.js"), &plain);
        assert_eq!(header_of(&response, header::CACHE_CONTROL), "public, max-age=31536000, immutable");
        assert_eq!(header_of(&response, header::CONTENT_TYPE), "text/javascript; charset=utf-8");
        assert_eq!(header_of(&response, header::CONTENT_ENCODING), "");
        for path in ["index.html", "assets/logo.svg", "favicon-12345678.ico"] {
            assert_eq!(header_of(&respond(&file(path), &plain), header::CACHE_CONTROL), "no-cache", "{path}");
        }
    }

    #[test]
    fn a_known_etag_saves_the_body() {
        for (sent, status) in
            [("\"e1\"", 304), ("W/\"e1\"", 304), ("\"e0\", \"e1\"", 304), ("*", 304), ("\"e2\"", 200)]
        {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, sent.parse().unwrap())]);
            assert_eq!(respond(&file("index.html"), &headers).status(), status, "{sent}");
        }
    }

    #[test]
    fn packed_bytes_go_out_as_they_are() {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, "br, gzip".parse().unwrap())]);
        let response = respond(&file("index.html"), &headers);
        assert_eq!(header_of(&response, header::CONTENT_ENCODING), "gzip");
        assert!(header_of(&response, header::CONTENT_SECURITY_POLICY).starts_with("default-src 'self'"));
    }
}
