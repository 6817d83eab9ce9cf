use llm_tensor::Bytes;

/// RAM that a reader needs which holds each file of a checkpoint whole while it turns its tensors into their final
/// form, as tools do that were not made for models near the machine's limits. `shards` are the files' sizes; `resident`
/// is what of the final form rests in RAM.
pub fn whole_shards_peak(shards: &[Bytes], resident: Bytes) -> Bytes {
    let total: u128 = shards.iter().map(|shard| u128::from(shard.get())).sum();
    let mut read = 0;
    let peak = shards.iter().map(|&shard| {
        read += u128::from(shard.get());
        // As much of the final form is there as of the checkpoint has been read.
        let placed = u128::from(resident.get()) * read / total.max(1);
        shard + Bytes::new(placed as u64)
    });
    peak.max().unwrap_or(Bytes::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_shard_lies_beside_what_has_been_placed() {
        let peak = |shards: &[u64], resident| {
            let shards: Vec<_> = shards.iter().map(|&n| Bytes::new(n)).collect();
            whole_shards_peak(&shards, Bytes::new(resident)).get()
        };
        assert_eq!(peak(&[], 0), 0);
        assert_eq!(peak(&[14], 0), 14, "all goes to a GPU");
        assert_eq!(peak(&[14], 14), 28, "all stays in RAM");
        assert_eq!(peak(&[10, 4], 7), 15, "half as wide: 10 + 5, then 4 + 7");
        assert_eq!(peak(&[5, 5, 4], 14), 18, "5 + 10 is passed by 4 + 14");
    }
}
