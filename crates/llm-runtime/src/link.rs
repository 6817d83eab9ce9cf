//! Ways of rows from the memory of one device to that of another.

use crate::Result;
use crate::port::{Crossing, Port};

/// Brings the first `n_elements` of some rows from one device to another: from memory to memory where both are of one
/// backend, without a wait of the host, and else through `host`, which has room for them.
pub(crate) fn carry(
    (rows, n_elements): (Crossing, usize),
    from: &mut dyn Port,
    to: &mut dyn Port,
    host: &mut [f32],
) -> Result<()> {
    if to.take(rows, n_elements, from.lane(rows))? {
        return Ok(());
    }
    let host = &mut host[..n_elements];
    from.download(rows, host)?;
    to.upload(rows, host)
}
