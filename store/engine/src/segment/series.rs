//! `series.parquet`: the series of a segment, by the ids that its samples use.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pyrite_model::{LabelSet, ProfileType, SeriesKey, TimeRange, UnixMs};

use super::manifest::Manifest;
use super::schema::SERIES;
use crate::StoreError;
use crate::files::FileLayer;
use crate::stored_key::{key_of_stored, stored_labels};
use crate::table::Column;

/// Rows of one series in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSeries {
    /// The id that the segment's samples use.
    pub(crate) id: u32,
    pub(crate) key: Arc<SeriesKey>,
    pub(crate) range: TimeRange,
    pub(crate) rows: u64,
}

pub(super) fn columns(series: &[SegmentSeries]) -> Vec<Column> {
    vec![
        Column::U32(series.iter().map(|s| s.id).collect()),
        Column::text(series.iter().map(|s| s.key.profile_type.to_string())),
        Column::text(series.iter().map(|s| labels_to_json(&s.key))),
        Column::I64(series.iter().map(|s| s.range.start.0).collect()),
        Column::I64(series.iter().map(|s| s.range.end.0).collect()),
        Column::I64(series.iter().map(|s| s.rows as i64).collect()),
    ]
}

/// The series that a segment holds.
pub(crate) fn read_series(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
) -> Result<Vec<SegmentSeries>, StoreError> {
    let reader = manifest.open_table(files, dir, SERIES.file)?;
    let mut series = Vec::new();
    for i in 0..reader.row_group_count() {
        let group = reader.row_group(i)?;
        let (ids, types, labels) = (group.u32s(0)?, group.texts(1)?, group.texts(2)?);
        let (starts, ends, rows) = (group.i64s(3)?, group.i64s(4)?, group.i64s(5)?);
        for at in 0..group.rows() {
            let key = types[at].as_utf8().ok().zip(labels[at].as_utf8().ok());
            let key = key.and_then(|(profile_type, labels)| parse_key(profile_type, labels));
            let key =
                key.ok_or_else(|| StoreError::corrupt(&dir.join(SERIES.file), "a series is not legible"))?;
            let range = TimeRange::new(UnixMs(starts[at]), UnixMs(ends[at]));
            series.push(SegmentSeries { id: ids[at], key: Arc::new(key), range, rows: rows[at] as u64 });
        }
    }
    Ok(series)
}

/// A series key from the text of its profile type and labels.
pub(crate) fn parse_key(profile_type: &str, labels: &str) -> Option<SeriesKey> {
    let profile_type: ProfileType = profile_type.parse().ok()?;
    Some(key_of_stored(labels_from_json(labels)?, profile_type))
}

/// A series' labels as a JSON object with their names in order, so that equal sets are equal text.
pub(crate) fn labels_to_json(key: &SeriesKey) -> String {
    let labels = stored_labels(key);
    let object: BTreeMap<&str, &str> = labels.iter().map(|l| (l.name.as_str(), l.value.as_str())).collect();
    serde_json::to_string(&object).expect("a map of strings is JSON")
}

/// Reads what [`labels_to_json`] wrote.
fn labels_from_json(text: &str) -> Option<LabelSet> {
    let object: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    Some(LabelSet::from_pairs(object))
}
