//! Figures out of many measurements.

use std::time::Duration;

use anyhow::{Context, Result};

/// The value at a quantile (0 to 1) of durations, which are sorted here.
///
/// # Errors
/// Where there are none.
pub fn quantile(values: &mut [Duration], quantile: f64) -> Result<Duration> {
    values.sort_unstable();
    let last = values.len().checked_sub(1).context("no values")?;
    Ok(values[(last as f64 * quantile).round() as usize])
}
