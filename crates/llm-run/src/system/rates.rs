//! Bandwidths of memories, each with its origin.

use std::fmt;
use std::path::{Path, PathBuf};

use llm_plan::Bandwidths;
use serde::Serialize;

use super::{Kept, Machine, Measurement, Volume, cache_folder};

/// Bytes a second, each figure with how it is known. Those of GPUs and of the way to them are always assumed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    pub(crate) bandwidths: Bandwidths,
    pub(crate) ram: Origin,
    pub(crate) disk: Origin,
}

/// Origin of a figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub(crate) enum Origin {
    /// `llm-run doctor` measured it on this machine.
    Measured {
        /// The day, as 2026-07-06.
        date: String,
        #[serde(skip)]
        days_ago: i64,
        /// Of a disk: where.
        #[serde(skip_serializing_if = "Option::is_none")]
        folder: Option<PathBuf>,
    },
    /// Usual figures of such a machine.
    Assumed {
        /// Reason why a measurement that there is does not count.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl Origin {
    /// A figure of which there never is a measurement.
    pub(crate) const ASSUMED: Origin = Origin::Assumed { reason: None };

    pub(crate) fn is_measured(&self) -> bool {
        match self {
            Origin::Measured { .. } => true,
            Origin::Assumed { .. } => false,
        }
    }
}

/// `measured on this machine on 2026-07-06`, or `assumed`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Measured {
                date,
                days_ago,
                folder,
            } => {
                f.write_str("measured on this machine")?;
                if let Some(folder) = folder {
                    write!(f, " in {}", folder.display())?;
                }
                write!(f, " on {date}")?;
                if *days_ago > OLD {
                    write!(f, ", {days_ago} days ago")?;
                }
                Ok(())
            }
            Origin::Assumed { reason: None } => f.write_str("assumed"),
            Origin::Assumed {
                reason: Some(reason),
            } => write!(f, "assumed: {reason}"),
        }
    }
}

impl Rates {
    /// Rates of this machine. `files` are those, or the folders of those, that would be read from disk: what was
    /// measured of another disk does not count.
    pub(crate) fn of(files: &[PathBuf]) -> Self {
        let kept = cache_folder().map(|folder| Measurement::read(&folder, &Machine::this()));
        Self::of_kept(kept.unwrap_or(Kept::Nothing), &|measured| {
            let is_same = |file: &PathBuf| {
                let volume = Volume::of(file);
                volume.is_some_and(|volume| volume.is_same(measured))
            };
            files.iter().all(is_same)
        })
    }

    fn of_kept(kept: Kept, is_volume: &dyn Fn(Volume) -> bool) -> Self {
        let assumed = |reason: Option<String>| Rates {
            bandwidths: USUAL,
            ram: Origin::Assumed {
                reason: reason.clone(),
            },
            disk: Origin::Assumed { reason },
        };
        let kept = match kept {
            Kept::Nothing => return assumed(None),
            Kept::Elsewhere(date) => {
                return assumed(Some(format!(
                    "what was measured on {date} was another machine, other processors or another version"
                )));
            }
            Kept::Here(kept) => kept,
        };
        let (date, days_ago) = (kept.date(), kept.days_ago());
        let measured = |folder: Option<&Path>| Origin::Measured {
            date: date.clone(),
            days_ago,
            folder: folder.map(Path::to_owned),
        };
        let disk = &kept.bandwidth.disk;
        let folder = disk.folder.as_deref();
        let (rate, origin) = match (disk.rate, disk.volume) {
            (Some(rate), Some(volume)) if is_volume(volume) => (rate, measured(folder)),
            (Some(_), _) => {
                let of = folder.map_or(String::new(), |f| format!(", that of {}", f.display()));
                let reason = Some(format!("what was measured on {date} was another disk{of}"));
                (USUAL.disk, Origin::Assumed { reason })
            }
            (None, _) => {
                let reason = Some(format!("no disk could be measured on {date}"));
                (USUAL.disk, Origin::Assumed { reason })
            }
        };
        Rates {
            bandwidths: Bandwidths {
                ram: kept.bandwidth.ram,
                disk: rate,
                ..USUAL
            },
            ram: measured(None),
            disk: origin,
        }
    }
}

/// A small data centre GPU behind 16 lanes of PCIe 3, two channels of DDR4, and a solid-state drive.
pub(crate) const USUAL: Bandwidths = Bandwidths {
    gpu: 300e9,
    pcie: 12e9,
    ram: 20e9,
    disk: 1e9,
};
/// Days after which a measurement is said to be old.
const OLD: i64 = 60;

#[cfg(test)]
mod tests {
    use super::super::{Bandwidth, MeasuredDisk};
    use super::*;

    fn kept(rate: Option<f64>, volume: Option<Volume>) -> Kept {
        let bandwidth = Bandwidth {
            ram: 33e9,
            disk: MeasuredDisk {
                rate,
                folder: Some(PathBuf::from("/fast")),
                volume,
            },
        };
        Kept::Here(Measurement::new(Machine::this(), bandwidth))
    }

    #[test]
    fn each_figure_says_how_it_is_known() {
        struct Case {
            kept: Kept,
            is_same_volume: bool,
            rates: [f64; 2],
            said: [&'static str; 2],
        }
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::of(folder.path());
        let here = "measured on this machine on DATE";
        let elsewhere = "assumed: what was measured on 2026-07-06 was another machine, other processors or another version";
        let cases = [
            Case {
                kept: Kept::Nothing,
                is_same_volume: true,
                rates: [20e9, 1e9],
                said: ["assumed", "assumed"],
            },
            Case {
                kept: Kept::Elsewhere("2026-07-06".to_owned()),
                is_same_volume: true,
                rates: [20e9, 1e9],
                said: [elsewhere, elsewhere],
            },
            Case {
                kept: kept(Some(3e9), volume),
                is_same_volume: true,
                rates: [33e9, 3e9],
                said: [here, "measured on this machine in /fast on DATE"],
            },
            Case {
                kept: kept(Some(3e9), volume),
                is_same_volume: false,
                rates: [33e9, 1e9],
                said: [
                    here,
                    "assumed: what was measured on DATE was another disk, that of /fast",
                ],
            },
            // Of which disk was not kept.
            Case {
                kept: kept(Some(3e9), None),
                is_same_volume: true,
                rates: [33e9, 1e9],
                said: [
                    here,
                    "assumed: what was measured on DATE was another disk, that of /fast",
                ],
            },
            Case {
                kept: kept(None, volume),
                is_same_volume: true,
                rates: [33e9, 1e9],
                said: [here, "assumed: no disk could be measured on DATE"],
            },
        ];
        for case in cases {
            let date = match &case.kept {
                Kept::Here(kept) => kept.date(),
                Kept::Elsewhere(_) | Kept::Nothing => String::new(),
            };
            let rates = Rates::of_kept(case.kept, &|_| case.is_same_volume);
            assert_eq!([rates.bandwidths.ram, rates.bandwidths.disk], case.rates);
            let said = [rates.ram.to_string(), rates.disk.to_string()];
            assert_eq!(said, case.said.map(|said| said.replace("DATE", &date)));
        }
    }

    #[test]
    fn what_is_old_is_said_to_be() {
        let origin = |days_ago| Origin::Measured {
            date: "2026-07-06".to_owned(),
            days_ago,
            folder: None,
        };
        let said = "measured on this machine on 2026-07-06";
        assert_eq!(origin(60).to_string(), said);
        assert_eq!(origin(61).to_string(), format!("{said}, 61 days ago"));
    }
}
