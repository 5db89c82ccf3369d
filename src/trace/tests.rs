//! Formats against files: detection, every kind of bad row, and published traces where they are at hand.
