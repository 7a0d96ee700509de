//! What `record` writes: one profile as pprof, folded stacks, an SVG flame graph or a page that holds one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use prost::Message;
use pyrite_model::pprof::{self, ExportMeta};
use pyrite_model::{StackProfile, frame_names};

/// How many functions the page's table lists.
const TOP_FUNCTIONS: usize = 30;

/// A format, chosen by the ending of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// gzipped pprof.
    Pprof,
    /// `root;caller;leaf 12` lines.
    Folded,
    /// An interactive flame graph.
    Svg,
    /// A page: the flame graph and a table of functions, with nothing loaded from elsewhere.
    Html,
}

/// A finished recording.
pub(super) struct Recording {
    /// Values by stack.
    pub(super) values: StackProfile,
    /// What one of them is, in the plural.
    pub(super) unit: &'static str,
    /// What the flame graph is titled.
    pub(super) title: String,
    /// Start, duration and profile type of the pprof file, whose values are nanoseconds: `period` of them each.
    pub(super) meta: ExportMeta,
}

impl Format {
    /// The format that the ending of `path` names.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let formats =
            [(".pb.gz", Self::Pprof), (".folded", Self::Folded), (".svg", Self::Svg), (".html", Self::Html)];
        match formats.into_iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, format)) => Ok(format),
            None => bail!("{name:?} names no format: let it end in .pb.gz, .svg, .folded or .html"),
        }
    }
}

impl Recording {
    /// The file's bytes.
    pub(super) fn encode(&self, format: Format) -> Result<Vec<u8>> {
        match format {
            Format::Pprof => Ok(self.pprof()),
            Format::Folded => Ok(self.folded().join("\n").into_bytes()),
            Format::Svg => self.svg(),
            Format::Html => Ok(self.html()?.into_bytes()),
        }
    }

    fn pprof(&self) -> Vec<u8> {
        let mut times = self.values.clone();
        for (_, value) in &mut times.values {
            *value = value.saturating_mul(self.meta.period);
        }
        pprof::gzip(&pprof::encode(&times, &self.meta).encode_to_vec())
    }

    /// Equal name sequences are one line; a `;` or line break in a name would split it and is replaced.
    fn folded(&self) -> Vec<String> {
        let mut lines: BTreeMap<String, i64> = BTreeMap::new();
        for &(stack, value) in &self.values.values {
            let names = frame_names(&self.values.symbols, stack);
            let names: Vec<String> =
                names.iter().map(|name| name.replace(';', ":").replace(['\n', '\r'], " ")).collect();
            *lines.entry(names.join(";")).or_default() += value;
        }
        lines.into_iter().map(|(names, value)| format!("{names} {value}")).collect()
    }

    fn svg(&self) -> Result<Vec<u8>> {
        let mut options = inferno::flamegraph::Options::default();
        options.title.clone_from(&self.title);
        options.count_name = self.unit.into();
        options.deterministic = true;
        let lines = match self.folded() {
            // inferno refuses an empty graph; a recording in which nothing happened is no error.
            lines if lines.is_empty() => vec!["(nothing was recorded) 1".to_owned()],
            lines => lines,
        };
        let mut svg = Vec::new();
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
            .context("failed to draw the flame graph")?;
        Ok(svg)
    }

    fn html(&self) -> Result<String> {
        let svg = String::from_utf8(self.svg()?).context("the flame graph is not UTF-8")?;
        // An SVG inside a page has no XML prologue of its own.
        let svg = svg.find("<svg").map_or("", |start| &svg[start..]);
        let total = self.values.total().max(1) as f64;
        let mut rows = String::new();
        for (name, own, all) in self.top_functions() {
            let (own_percent, all_percent) = (own as f64 / total * 100.0, all as f64 / total * 100.0);
            let name = escape(&name);
            writeln!(rows, "<tr><td>{name}<td>{own}<td>{own_percent:.1} %<td>{all}<td>{all_percent:.1} %")?;
        }
        let title = escape(&self.title);
        Ok(format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>\
             body{{font:14px system-ui;margin:1rem;max-width:1200px}}table{{border-collapse:collapse;margin-top:1rem}}\
             td,th{{padding:.2rem .8rem;text-align:right}}td:first-child,th:first-child{{text-align:left;\
             font-family:monospace}}tr:nth-child(even){{background:#f4f4f4}}</style>\
             <h1>{title}</h1>{svg}<table><tr><th>Function<th>Self, {unit}<th>share<th>Total, {unit}<th>share\n{rows}</table></html>\n",
            unit = self.unit,
        ))
    }

    /// Name, self and total of the functions with the largest self value.
    fn top_functions(&self) -> Vec<(String, i64, i64)> {
        let mut functions: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for &(stack, value) in &self.values.values {
            let mut names = frame_names(&self.values.symbols, stack);
            if let Some(leaf) = names.last() {
                functions.entry(leaf.to_string()).or_default().0 += value;
            }
            // A recursive function is in this stack once, however often it is on it.
            names.sort_unstable();
            names.dedup();
            for name in names {
                functions.entry(name.into_owned()).or_default().1 += value;
            }
        }
        let mut functions: Vec<_> =
            functions.into_iter().map(|(name, (own, all))| (name, own, all)).collect();
        functions.sort_by_key(|(_, own, all)| std::cmp::Reverse((*own, *all)));
        functions.truncate(TOP_FUNCTIONS);
        functions
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use pyrite_model::ProfileType;

    use super::*;

    fn recording(stacks: &[(&[&str], i64)]) -> Recording {
        let mut samples = StackProfile::default();
        for (root_first, value) in stacks {
            let locations: Vec<_> =
                root_first.iter().rev().map(|name| samples.symbols.intern_named_location(name)).collect();
            let stack = samples.symbols.intern_stack(&locations).expect("not empty");
            samples.values.push((stack, *value));
        }
        let meta =
            ExportMeta { profile_type: ProfileType::cpu_time(), time_ns: 1, duration_ns: 2, period: 10 };
        Recording { values: samples, unit: "samples", title: "a <b>".into(), meta }
    }

    #[test]
    fn the_ending_chooses_the_format() {
        for (name, format) in
            [("a.pb.gz", Format::Pprof), ("d/a.svg", Format::Svg), ("x.folded", Format::Folded)]
        {
            assert_eq!(Format::of(Path::new(name)).expect("known"), format);
        }
        for name in ["a.gz", "svg", "a.png", "/"] {
            assert!(Format::of(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn folded_lines_add_up_and_keep_their_shape() {
        let recording = recording(&[(&["main", "a;b"], 2), (&["main", "a:b"], 3), (&["main"], 1)]);
        assert_eq!(recording.folded(), ["main 1", "main;a:b 5"]);
    }

    #[test]
    fn pprof_values_are_cpu_time() {
        let bytes = recording(&[(&["main"], 7)]).encode(Format::Pprof).expect("encodes");
        let mut raw = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut raw).expect("gzip");
        let profile = pprof::proto::Profile::decode(&raw[..]).expect("pprof");
        assert_eq!(profile.sample[0].value, [70]);
    }

    #[test]
    fn the_page_escapes_names_and_counts_recursion_once() {
        let recording = recording(&[(&["f<T>", "f<T>"], 4)]);
        let html = String::from_utf8(recording.encode(Format::Html).expect("encodes")).expect("UTF-8");
        assert!(html.contains("<tr><td>f&lt;T&gt;<td>4<td>100.0 %<td>4<td>100.0 %"), "{html}");
        assert!(html.contains("<h1>a &lt;b&gt;</h1><svg"));
    }

    #[test]
    fn nothing_recorded_is_still_a_graph() {
        let empty = recording(&[]);
        assert!(empty.encode(Format::Svg).expect("encodes").starts_with(b"<?xml"));
        assert!(empty.encode(Format::Folded).expect("encodes").is_empty());
    }
}
