//! What deliveries have learnt from outside.

use super::{Agent, Ledger};
use crate::{
    answers::{self, Opening, Record},
    id::EventId,
};

impl Agent {
    pub(super) fn record(&mut self, opening: &Opening, row: i64) -> &mut Record {
        let found = self.records.iter().find(|(_, of)| of.opening.delivery == opening.delivery);
        let row = found.map_or(row, |(row, _)| *row);
        let new = || Record { opening: opening.clone(), ended: None, full: false, entries: vec![] };
        self.records.entry(row).or_insert_with(new)
    }
}

impl Ledger {
    /// Forgets what is too old or too much, the oldest first.
    pub(super) fn forget_records(&mut self, before: i64, most: u64, limit: u32) -> u32 {
        let records = self.agents.values().flat_map(|agent| agent.records.values());
        let mut bytes: u64 = records.filter(|of| of.ended.is_some()).map(size).sum();
        let mut ended: Vec<(i64, i64, u64)> = Vec::new();
        for agent in self.agents.values() {
            let waits = |id: &EventId| agent.pending.values().any(|waiting| waiting.event.id == *id);
            for (row, of) in &agent.records {
                match of.ended {
                    Some(at) => ended.push((at, *row, size(of))),
                    None if !waits(&of.opening.event) => ended.push((i64::MIN, *row, 0)),
                    None => {}
                }
            }
        }
        ended.sort_unstable();
        let mut gone = Vec::new();
        for (at, row, size) in ended {
            if gone.len() < limit as usize && (at < before || bytes > most) {
                bytes -= size;
                gone.push(row);
            }
        }
        for agent in self.agents.values_mut() {
            agent.records.retain(|row, _| !gone.contains(row));
        }
        u32::try_from(gone.len()).unwrap_or(u32::MAX)
    }
}

/// In place of what was learnt of the same.
pub(super) fn learn(record: &mut Record, entries: &[answers::Entry]) {
    record.entries.retain(|old| entries.iter().all(|new| new.key != old.key));
    record.entries.extend_from_slice(entries);
    record.entries.sort_by_key(|entry| entry.order);
}

fn size(record: &Record) -> u64 {
    let entries = record.entries.iter().map(answers::Entry::size);
    (record.opening.said.len() + entries.sum::<usize>()) as u64
}
