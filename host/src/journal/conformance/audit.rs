//! The audit record.

use super::*;
use crate::{
    audit::{Entry, Head, What},
    journal::review,
};

fn entry(detail: &str) -> Entry {
    Entry::new(What::Loaded, Some(&plugin("echo")), detail)
}

async fn details(journal: &dyn Journal, after: u64, limit: u32) -> Vec<(u64, String)> {
    let recorded = journal.recorded(after, limit).await.unwrap();
    recorded.into_iter().map(|it| (it.number, it.entry.detail)).collect()
}

pub(super) async fn the_record_is_one_chain(journal: Ledger) {
    assert_eq!(journal.record_head().await.unwrap(), Head::default());
    let counted = entry("b").agent(&agent()).counted(crate::manifest::Permission::Kv, 7, 1);
    journal.record(vec![entry("a"), counted.clone()]).await.unwrap();
    journal.record(vec![]).await.unwrap();
    journal.record(vec![entry("c")]).await.unwrap();
    assert_eq!(details(&*journal, 0, 2).await, [(1, "a".into()), (2, "b".into())]);
    assert_eq!(details(&*journal, 2, 10).await, [(3, "c".into())]);
    assert_eq!(journal.recorded(1, 1).await.unwrap()[0].entry, counted, "as it was written");
    let mut seen = 0;
    let head = review(&*journal, |_| seen += 1).await.unwrap();
    assert_eq!((seen, head), (3, journal.record_head().await.unwrap()));
}

pub(super) async fn what_is_written_at_once_is_still_one_chain(journal: Ledger) {
    let writes = (0..50).map(|n| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.record(vec![entry(&n.to_string()); 3]).await.unwrap() })
    });
    for write in writes.collect::<Vec<_>>() {
        // Somebody may look meanwhile.
        review(&*journal, drop).await.unwrap();
        write.await.unwrap();
    }
    assert_eq!(review(&*journal, drop).await.unwrap().count, 150);
}
