//! Published vocabularies with test vectors: each text of the `.inp` file gives the ids of the `.out` file.

mod common;

use levain_tokenizer::{SpecialTokens, Tokenizer};

#[test]
fn published_vocabularies_give_the_published_ids() {
    let Some(folder) = common::shared() else { return };
    let folder = folder.join("fixtures/tokenizers");
    let mut vocabularies = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        vocabularies += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = Tokenizer::from_gguf(common::read_gguf(&std::fs::read(&path).unwrap())).unwrap();
        let texts = std::fs::read_to_string(format!("{}.inp", path.display())).unwrap();
        let expected = std::fs::read_to_string(format!("{}.out", path.display())).unwrap();
        // The separator stands behind every text, the last one too.
        let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        assert_eq!(texts.pop(), Some(""), "{name}");
        let expected: Vec<Vec<u32>> = expected
            .lines()
            .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert_eq!(texts.len(), expected.len(), "{name}");
        for (text, expected) in texts.iter().zip(&expected) {
            let found = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            assert_eq!(&found, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&found).unwrap(), *text, "{name}");
        }
    }
    assert!(vocabularies >= 3, "{}", folder.display());
}
