//! Parameters of a cut-off by a row's own statistics.

/// Leading columns of each row, of which what lies below a number of deviations above their mean becomes zero, and of the rest the
/// distance stays: `max(0, x − (mean + deviations · deviation))`, the deviation being that of all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CutOff {
    /// Columns.
    pub width: usize,
    /// Elements of a row.
    pub row_width: usize,
    /// Deviations above the mean.
    pub deviations: f32,
}

impl CutOff {
    /// # Panics
    /// When a row has not the columns, or there are none.
    pub fn check(&self) {
        assert!(0 < self.width && self.width <= self.row_width, "{self:?}");
    }
}
