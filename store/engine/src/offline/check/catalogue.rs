//! The catalogue against the segments that it lists.

use std::collections::BTreeSet;
use std::path::Path;

use super::segment::Checked;
use crate::StoreError;
use crate::catalogue::{Catalogue, Retired};
use crate::offline::report::{Damage, Remedy, in_words};
use crate::segment::SegmentInfo;
use crate::series_index::Filling;

/// What came of it.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) findings: Vec<Damage>,
    /// Generations of the log up to this one are in segments, as it says.
    pub(super) flushed_through: u64,
    /// Segments that it does not have in use any more.
    pub(super) removed: BTreeSet<String>,
}

/// Compares it with the segments on the disk, which take from it what they do not say themselves.
pub(super) fn compare(
    catalogue: &Catalogue,
    path: &Path,
    segments: &mut [Checked],
) -> Result<Compared, StoreError> {
    let of_file = |what: String| Damage::new(path, what, Remedy::RebuildCatalogue);
    let mut compared = Compared::default();
    let findings = &mut compared.findings;
    findings.extend(catalogue.faults()?.into_iter().map(of_file));
    match catalogue.check() {
        Err(error) if Catalogue::is_broken(&error) => {
            findings.push(of_file(in_words(&error)));
            // What else it says would be held against sound segments.
            for checked in segments {
                checked.name_series(None);
            }
            return Ok(compared);
        }
        checked => checked?,
    }
    compared.flushed_through = catalogue.flushed_through()?;
    match catalogue.fill(&mut Filling::default()) {
        Err(error) if Catalogue::is_broken(&error) => findings.push(of_file(in_words(&error))),
        filled => filled?,
    }
    let live = catalogue.segments()?;
    let removed = catalogue.retired(Retired::Removed)?;
    compared.removed = removed.into_iter().map(|segment| segment.name).collect();
    for checked in segments.iter_mut() {
        checked.name_series(Some(catalogue));
        checked.date(&live);
    }
    // A start puts those in their place that replace them.
    let manifests = || segments.iter().filter_map(|checked| checked.manifest.as_ref());
    let replaced: BTreeSet<&String> = manifests().flat_map(|manifest| &manifest.replaces).collect();
    for listed in live.iter().filter(|listed| !replaced.contains(&listed.name)) {
        match segments.iter().find(|checked| checked.name == listed.name) {
            None => {
                let what = format!("segment {} is gone", listed.name);
                let remedy = Remedy::ForgetSegment(listed.name.clone());
                findings.push(Damage::of(listed, path, what, remedy));
            }
            Some(checked) => findings.extend(compare_one(catalogue, path, listed, checked)?),
        }
    }
    let quarantined = catalogue.retired(Retired::Quarantined)?;
    for checked in segments.iter().filter(|checked| !compared.removed.contains(&checked.name)) {
        let known = |listed: &SegmentInfo| listed.name == checked.name;
        if !live.iter().chain(&quarantined).any(known) {
            findings.push(unlisted(path, checked));
        }
    }
    Ok(compared)
}

fn unlisted(path: &Path, checked: &Checked) -> Damage {
    let what = format!("segment {} is not in it", checked.name);
    let remedy = Remedy::Start("add the segment to the catalogue");
    match &checked.info {
        Some(info) => Damage::of(info, path, what, remedy),
        None => Damage::new(path, what, remedy),
    }
}

fn compare_one(
    catalogue: &Catalogue,
    path: &Path,
    listed: &SegmentInfo,
    checked: &Checked,
) -> Result<Option<Damage>, StoreError> {
    let name = &listed.name;
    let differs = |what: &str| {
        let what = format!("it says other {what} of segment {name} than the segment itself");
        Some(Damage::of(listed, path, what, Remedy::RebuildCatalogue))
    };
    if checked.info.as_ref().is_some_and(|info| info != listed) {
        return Ok(differs("rows or times"));
    }
    let Some(series) = &checked.series else { return Ok(None) };
    let in_catalogue = catalogue.series_of(name)?;
    let same = in_catalogue.len() == series.len()
        && in_catalogue.iter().zip(series).all(|((id, key, range), series)| {
            (*id, key, *range) == (series.id, series.key.as_ref(), series.range)
        });
    Ok(if same { None } else { differs("series") })
}
