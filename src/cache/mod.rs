//! Finished transcripts, kept by what was heard, by which model and how it was asked.
