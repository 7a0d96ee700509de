//! Mangled names to readable ones: Rust and C++. Output is bounded, for a short mangled name can expand exponentially.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

const MAX_DEMANGLED_BYTES: usize = 8192;
/// Deep enough for real templates, shallow enough for the stack of a small thread.
const MAX_RECURSION: u32 = 96;

/// The readable form of `mangled`, or `None` where it is not mangled or expands beyond reason.
pub(crate) fn demangle(mangled: &str) -> Option<String> {
    // Versioned dynamic symbols, `name@@GLIBC_2.2.5`, and clones that compilers make, `name.part.0`, keep their suffix.
    let mut out = Bounded(String::new());
    if let Ok(name) = rustc_demangle::try_demangle(mangled) {
        write!(out, "{name:#}").ok()?;
        return Some(out.0);
    }
    if !mangled.starts_with("_Z") && !mangled.starts_with("__Z") {
        return None;
    }
    let parse = ParseOptions::default().recursion_limit(MAX_RECURSION);
    let symbol = Symbol::new_with_options(mangled, &parse).ok()?;
    let options = DemangleOptions::default().no_return_type().recursion_limit(MAX_RECURSION);
    symbol.structured_demangle(&mut out, &options).ok()?;
    Some(out.0)
}

struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.0.len() + s.len() > MAX_DEMANGLED_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mangled: &str, expect: Option<&str>) {
        assert_eq!(demangle(mangled).as_deref(), expect, "{mangled}");
    }

    #[test]
    fn rust_and_cpp_and_neither() {
        check("main", None);
        check("_start", None);
        check("_ZN4core3fmt5write17h0123456789abcdefE", Some("core::fmt::write"));
        check("_RNvC6_123foo3bar", Some("123foo::bar"));
        check("_ZN3foo3barEi", Some("foo::bar(int)"));
        check(
            "_ZNSt6vectorIiSaIiEE9push_backERKi",
            Some("std::vector<int, std::allocator<int> >::push_back(int const&)"),
        );
        check("_Z", None);
        check("_ZN3foo", None);
        check("", None);
    }

    #[test]
    fn a_name_that_expands_without_end_is_given_up() {
        // Each template argument names the one before it twice: 2^40 bytes if it were written out.
        let mut mangled = "_Z1fI1aIiiE".to_owned();
        for i in 0..40 {
            let back = if i == 0 { "S0_".to_owned() } else { format!("S{i:X}_") };
            write!(mangled, "1aI{back}{back}E").unwrap();
        }
        mangled.push_str("EvT_");
        assert!(demangle(&mangled).is_none_or(|name| name.len() <= MAX_DEMANGLED_BYTES));
        assert_eq!(demangle(&format!("_Z{}", "P".repeat(100_000))), None);
    }
}
