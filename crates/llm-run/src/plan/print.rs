//! A plan as text, as JSON and as a picture.

mod bars;
mod headers;
pub(super) mod json;
mod reader;
mod recommended;
mod speed;
pub(super) mod svg;
pub(super) mod text;
pub(super) mod units;
