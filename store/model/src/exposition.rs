//! The Prometheus text format, written: what `/metrics` answers.
//!
//! Lines of one metric are kept together whoever writes them, with HELP and TYPE once, as the format demands.

use std::fmt::{self, Write};

/// Metrics under construction.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    families: Vec<Family>,
}

#[derive(Clone, Debug)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: String,
}

/// The labels of one line: names and values.
pub type MetricLabels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// No metric yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that only grows; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: MetricLabels<'_>, value: f64) {
        self.sample(Family { name, kind: "counter", help, samples: String::new() }, labels, value);
    }

    /// Adds a value that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: MetricLabels<'_>, value: f64) {
        self.sample(Family { name, kind: "gauge", help, samples: String::new() }, labels, value);
    }

    fn sample(&mut self, family: Family, labels: MetricLabels<'_>, value: f64) {
        let at = self.families.iter().rposition(|f| f.name == family.name).unwrap_or(self.families.len());
        if at == self.families.len() {
            self.families.push(family);
        }
        let out = &mut self.families[at];
        out.samples.push_str(out.name);
        for (i, (name, value)) in labels.iter().enumerate() {
            out.samples.push(if i == 0 { '{' } else { ',' });
            out.samples.push_str(name);
            out.samples.push_str("=\"");
            escape(value, &mut out.samples);
            out.samples.push('"');
        }
        if !labels.is_empty() {
            out.samples.push('}');
        }
        let written = match value {
            f64::INFINITY => out.samples.write_str(" +Inf\n"),
            f64::NEG_INFINITY => out.samples.write_str(" -Inf\n"),
            value => writeln!(out.samples, " {value}"),
        };
        written.expect("writing to a string cannot fail");
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

impl fmt::Display for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Family { name, kind, help, samples } in &self.families {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            write!(f, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_metric_stay_together() {
        let mut out = Exposition::new();
        out.counter("rows_total", "Rows by \\ fate.", &[("fate", "stored")], 3.0);
        out.gauge("heat", "Degrees.", &[], -0.5);
        out.counter("rows_total", "Rows by \\ fate.", &[("fate", "a\"b\\c\nd"), ("x", "")], 9_007_199_254.0);
        out.gauge("edge", "Bounds.", &[], f64::INFINITY);
        let expected = r#"# HELP rows_total Rows by \\ fate.
# TYPE rows_total counter
rows_total{fate="stored"} 3
rows_total{fate="a\"b\\c\nd",x=""} 9007199254
# HELP heat Degrees.
# TYPE heat gauge
heat -0.5
# HELP edge Bounds.
# TYPE edge gauge
edge +Inf
"#;
        assert_eq!(out.to_string(), expected);
    }
}
