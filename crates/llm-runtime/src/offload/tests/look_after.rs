//! Listings of the folder, and its cleaning.

use super::*;

fn ok(_: Bytes) -> Result<()> {
    Ok(())
}

#[test]
fn an_entry_is_listed_verified_and_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let (model, root) = (
        copy_of("llama", folder.path()),
        folder.path().join("offload"),
    );
    let listed = OffloadFolder::new(root.clone());
    assert!(
        listed.entries().unwrap().is_empty(),
        "no folder, no entries"
    );

    let nf4 = Kept::new(&model, DType::BF16, four_bit(Code::Nf4, true));
    let bytes_of = |kept: &Kept| {
        let bytes = listed.bytes_of(&kept.model, &kept.encodings(), kept.run_on);
        bytes.unwrap()
    };
    assert_eq!(bytes_of(&nf4), Bytes::ZERO);
    let (prepared, written) = nf4.prepared(&root);
    let entry = listed.entries().unwrap().remove(0);
    assert_eq!(bytes_of(&nf4), entry.bytes);
    assert_eq!(bytes_of(&Kept::new(&model, DType::BF16, None)), Bytes::ZERO);
    let about = entry.about.clone().unwrap();
    let source = model.join("model.safetensors").canonicalize().unwrap();
    assert_eq!(
        (&about.model, about.weights.as_str()),
        (&source, "bf16, nf4 double")
    );
    assert_eq!(about.sources.len(), 1);
    assert_eq!(about.sources[0].bytes, fs::metadata(&source).unwrap().len());
    assert_eq!(entry.n_files, prepared.files.len());
    assert!(entry.bytes > written && entry.is_in_use && !entry.is_stale());
    assert_eq!(entry.n_unfinished, 0);

    assert!(matches!(
        entry.clear(),
        Err(RuntimeError::OffloadInUse { .. })
    ));
    assert_eq!(weights(&root).len(), prepared.files.len());

    let mut read = Bytes::ZERO;
    let damages = entry.verify(|bytes| {
        read += bytes;
        ok(bytes)
    });
    assert_eq!((damages.unwrap(), read), (vec![], entry.bytes));
    // A bit in the middle of the codes: nothing but the sum tells.
    let file = &prepared.files[&Unit::Layer(llm_arch::Side::Decoder, 1)];
    let mut bytes = fs::read(file.checkpoint.path()).unwrap();
    let codes = file
        .checkpoint
        .tensors()
        .find(|tensor| tensor.name.ends_with("up_proj.weight"));
    bytes[codes.unwrap().bytes.start as usize + 100] ^= 1;
    fs::write(file.checkpoint.path(), bytes).unwrap();
    let damages = entry.verify(ok).unwrap();
    assert_eq!(
        (&*damages[0].path, damages[0].expected, damages.len()),
        (file.checkpoint.path(), file.sum, 1)
    );
    let error = damaged(file.checkpoint.path(), file.sum, damages[0].found).to_string();
    assert!(
        error.contains("was removed") && !file.checkpoint.path().exists(),
        "{error}"
    );
    assert_eq!(entry.verify(ok).unwrap(), []);

    // Files that go while others are read, as when a run finds them damaged.
    let mut last = weights(&root).into_keys().next_back();
    let damages = entry.verify(|bytes| {
        if let Some(last) = last.take() {
            fs::remove_file(root.join(last)).unwrap();
        }
        ok(bytes)
    });
    assert_eq!(damages.unwrap(), []);

    drop(prepared);
    assert!(!listed.entries().unwrap()[0].is_in_use);
    fs::write(model.join("model.safetensors"), "another").unwrap();
    assert!(entry.is_stale());
    entry.clear().unwrap();
    assert!(tree(&root).is_empty() && listed.entries().unwrap().is_empty());
    entry.clear().unwrap();
}

#[test]
fn what_is_not_ours_is_neither_listed_nor_touched() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    Kept::llama_bf16().prepared(root);
    let listed = OffloadFolder::new(root.to_owned());
    let key = listed.entries().unwrap().remove(0).key;
    let ours = tree(root);

    let foreign = [
        "notes.txt".to_owned(),
        "0123456789ABCDEF0123456789ABCDEF/head-0000000000000000.safetensors".to_owned(),
        "deadbeef/offload.json".to_owned(),
        "00000000000000000000000000000000/thesis.tex".to_owned(),
        "11111111111111111111111111111111".to_owned(),
        format!("{key}/thesis.tex"),
        format!("{key}/head-0000000000000000.safetensors/thesis.tex"),
        format!("{key}/\u{1b}[2J"),
    ];
    for path in &foreign {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{").unwrap();
    }
    let entries = listed.entries().unwrap();
    assert_eq!(entries.len(), 2);
    let unknown = &entries[0];
    assert!(unknown.about.is_none() && !unknown.is_stale() && !unknown.is_in_use);
    assert_eq!((unknown.n_files, unknown.bytes), (0, Bytes::ZERO));
    assert_eq!(entries[1].n_files, ours.len() - 3);
    for entry in &entries {
        assert_eq!(entry.verify(ok).unwrap(), []);
    }
    // Hostile descriptions are none.
    let about = root.join(&key).join("offload.json");
    for text in ["[]", "{\"format\": 1}", "\u{0}", &"[".repeat(1 << 21)] {
        fs::write(&about, text).unwrap();
        assert!(listed.entries().unwrap()[1].about.is_none());
    }
    Kept::llama_bf16().prepared(root);
    for entry in &entries {
        entry.clear().unwrap();
    }
    let left = tree(root);
    assert!(
        left.keys().eq(foreign
            .iter()
            .map(PathBuf::from)
            .collect::<BTreeSet<_>>()
            .iter())
    );
    assert!(left.values().all(|text| text == b"{"));
}
