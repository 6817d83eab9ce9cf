//! Parameters of operations on a residual of several streams.

/// Streams of a residual, side by side in each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Number of them, up to [`Streams::MOST`].
    pub n: usize,
    /// Elements of each.
    pub width: usize,
}

impl Streams {
    /// Most streams of a row.
    pub const MOST: usize = 8;

    /// Elements of a row.
    ///
    /// # Panics
    /// When there are none, or more than [`Streams::MOST`].
    pub fn row_width(&self) -> usize {
        assert!((1..=Streams::MOST).contains(&self.n), "{self:?}");
        self.n * self.width
    }
}

/// Streams of each row made of all of them, and of something beside: `s'[o] = own · s[o] + Σ c[o][i] · s[i] + d[o] · y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamMix {
    /// The streams.
    pub streams: Streams,
    /// Elements of a row of coefficients.
    pub row_width: usize,
    /// Multiplies each stream in itself.
    pub own: f32,
    /// Column of the first of the coefficients c, `[n, n]`, the rows of which make a stream; none where these are zero.
    pub mixed: Option<usize>,
    /// What is added.
    pub added: Option<Added>,
}

/// Share of streams in what is added to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Added {
    /// First stream that has one.
    pub first: usize,
    /// What it is of each stream at least,
    pub offset: f32,
    /// and column of the first of the coefficients that are added to it, `[n]`; none where these are zero.
    pub column: Option<usize>,
}

impl StreamMix {
    /// # Panics
    /// When a row has not the coefficients.
    pub fn check(&self) {
        let n = self.streams.n;
        let own = self.mixed.map_or(0, |first| first + n * n);
        let added = self.added.and_then(|added| added.column);
        let added = added.map_or(0, |first| first + n);
        assert!(own.max(added) <= self.row_width, "{self:?}");
    }

    /// The coefficients of a row of them: c with what multiplies each stream in itself, and d.
    pub fn of_row(
        &self,
        row: &[f32],
    ) -> ([[f32; Streams::MOST]; Streams::MOST], [f32; Streams::MOST]) {
        let n = self.streams.n;
        let (mut c, mut d) = ([[0.0; Streams::MOST]; Streams::MOST], [0.0; Streams::MOST]);
        for (o, (of, share)) in c.iter_mut().zip(&mut d).take(n).enumerate() {
            if let Some(first) = self.mixed {
                of[..n].copy_from_slice(&row[first + o * n..][..n]);
            }
            of[o] += self.own;
            if let Some(added) = self.added
                && o >= added.first
            {
                *share = added.offset + added.column.map_or(0.0, |first| row[first + o]);
            }
        }
        (c, d)
    }
}

/// One row made of all streams of each: `factor · Σ w[i] · s[i]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamSum {
    /// The streams.
    pub streams: Streams,
    /// Elements of a row of coefficients.
    pub row_width: usize,
    /// Column of the first of the coefficients w, `[n]`; none where each is one.
    pub column: Option<usize>,
    /// Multiplies the sum.
    pub factor: f32,
}

impl StreamSum {
    /// # Panics
    /// When a row has not the coefficients.
    pub fn check(&self) {
        let end = self.column.map_or(0, |first| first + self.streams.n);
        assert!(end <= self.row_width, "{self:?}");
    }

    /// What multiplies each stream, by a row of coefficients.
    pub fn of_row(&self, row: &[f32]) -> [f32; Streams::MOST] {
        let mut w = [0.0; Streams::MOST];
        for (i, w) in w.iter_mut().take(self.streams.n).enumerate() {
            *w = self.factor * self.column.map_or(1.0, |first| row[first + i]);
        }
        w
    }
}
