use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use llm_tensor::Bytes;

use super::plan::ShardPlan;
use super::writer::ShardWriter;
use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;

/// Bytes that are read, converted and written at a time. Larger ones fall out of the processor's cache between
/// being read and being written.
const PIECE: usize = 4 << 20;

/// Pieces that exist: one being read, one being written, and one or two in between that even out the pace.
const N_PIECES: usize = 4;

impl ShardWriter<'_> {
    /// Writes every tensor of the plan as it is in `checkpoint`, converted where the plan wants another type.
    ///
    /// Reading and writing overlap; a few pieces of a few MB are in flight, whatever the size of the tensors.
    /// `progress` is told the bytes of tensors written so far, piece by piece; its error ends the copying.
    ///
    /// # Errors
    /// What [`Checkpoint::read_into`] and [`ShardWriter::write`] answer, and what `progress` does.
    ///
    /// # Panics
    /// When something was written before, or the plan's tensors have other shapes than the checkpoint's.
    pub fn copy_from<E: From<CheckpointError>>(
        &mut self,
        checkpoint: &Checkpoint,
        mut progress: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let plan = self.plan();
        let (to_writer, full) = sync_channel(N_PIECES);
        let (to_reader, empty) = channel();
        for _ in 0..N_PIECES {
            to_reader
                .send(Vec::new())
                .expect("the receiver is in scope");
        }
        thread::scope(|scope| {
            let reader = scope.spawn(move || read_pieces(checkpoint, plan, &empty, &to_writer));
            let mut written = Bytes::ZERO;
            let mut write = |piece: Vec<u8>| {
                self.write(&piece)?;
                written += Bytes::new(piece.len() as u64);
                progress(written)?;
                // The reader may have read everything.
                let _ = to_reader.send(piece);
                Ok(())
            };
            let wrote = full.iter().try_for_each(&mut write);
            // A reader that waits for either learns that nobody wants more.
            drop((full, to_reader));
            let read = reader.join().expect("reading a checkpoint does not panic");
            wrote.and_then(|()| Ok(read?))
        })
    }
}

/// Reads the plan's tensors into pieces that are all but the last about as long as [`PIECE`]; ends early when
/// nobody takes them.
fn read_pieces(
    checkpoint: &Checkpoint,
    plan: &ShardPlan,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) -> Result<(), CheckpointError> {
    let Ok(mut piece) = empty.recv() else {
        return Ok(());
    };
    piece.resize(PIECE, 0);
    let mut len = 0;
    for tensor in plan.tensors() {
        let size = tensor.dtype.size();
        let n_elements = tensor.shape.n_elements();
        let mut start = 0;
        while start < n_elements {
            if PIECE - len < size {
                piece.truncate(len);
                if full.send(piece).is_err() {
                    return Ok(());
                }
                let Ok(next) = empty.recv() else {
                    return Ok(());
                };
                piece = next;
                piece.resize(PIECE, 0);
                len = 0;
            }
            let n = (n_elements - start).min(((PIECE - len) / size) as u64);
            let out = &mut piece[len..len + n as usize * size];
            match plan.opaque().contains_key(&tensor.name) {
                true => checkpoint.read_stored(&tensor.name, start..start + n, out)?,
                false => checkpoint.read_into(&tensor.name, start..start + n, tensor.dtype, out)?,
            }
            len += out.len();
            start += n;
        }
    }
    piece.truncate(len);
    let _ = full.send(piece);
    Ok(())
}
