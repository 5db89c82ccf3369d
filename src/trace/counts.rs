//! What a file has that is read in a way of its own: a row is kept, and its reader is told how often.

/// How often something was read otherwise than it stands in the file, or passed over. Rows that are rejected count nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests whose prompt has 0 tokens: kept with 1, the least that an engine computes.
    pub zero_inputs: u64,
    /// Requests whose reply has 0 tokens: kept with 1, as the first token comes with the prompt. Those that failed count as
    /// `failed`, not here.
    pub zero_outputs: u64,
    /// Requests that failed, as their format says: kept, with 1 token where they have no reply.
    pub failed: u64,
    /// Numbers in quotes.
    pub string_numbers: u64,
    /// Lines without content.
    pub blank_lines: u64,
    /// Rows that end with CR LF.
    pub crlf_rows: u64,
    /// Files that do not end with an end of line.
    pub open_ends: u64,
    /// Files that begin with a byte order mark.
    pub byte_order_marks: u64,
    /// Entries that make no request, or none that could be simulated: questions without an answer, failed requests of
    /// unknown length, spans that are not of a request.
    pub passed_over: u64,
    /// Definitions of tools, which no column holds, and calls of tools, of which name and arguments are text.
    pub tools: u64,
    /// Lines of a log that are no requests.
    pub other_events: u64,
    /// Waits for requests that are not in the file: left out.
    pub lost_waits: u64,
}

impl Counts {
    /// Name, meaning and number of each, for reports.
    pub fn named(&self) -> [(&'static str, &'static str, u64); 12] {
        let Counts {
            zero_inputs,
            zero_outputs,
            failed,
            string_numbers,
            blank_lines,
            crlf_rows,
            open_ends,
            byte_order_marks,
            passed_over,
            tools,
            other_events,
            lost_waits,
        } = *self;
        [
            ("zero_inputs", "prompts of 0 tokens, read as 1", zero_inputs),
            ("zero_outputs", "replies of 0 tokens, read as 1", zero_outputs),
            ("failed", "requests that failed", failed),
            ("string_numbers", "numbers in quotes", string_numbers),
            ("blank_lines", "blank lines, passed over", blank_lines),
            ("crlf_rows", "rows that end with CR LF", crlf_rows),
            ("open_ends", "files without an end of line at their end", open_ends),
            ("byte_order_marks", "files with a byte order mark", byte_order_marks),
            ("passed_over", "entries that make no request, passed over", passed_over),
            ("tools", "definitions and calls of tools", tools),
            ("other_events", "lines that are no requests, passed over", other_events),
            ("lost_waits", "waits for requests that are not there, left out", lost_waits),
        ]
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        let Counts {
            zero_inputs,
            zero_outputs,
            failed,
            string_numbers,
            blank_lines,
            crlf_rows,
            open_ends,
            byte_order_marks,
            passed_over,
            tools,
            other_events,
            lost_waits,
        } = other;
        self.zero_inputs += zero_inputs;
        self.zero_outputs += zero_outputs;
        self.failed += failed;
        self.string_numbers += string_numbers;
        self.blank_lines += blank_lines;
        self.crlf_rows += crlf_rows;
        self.open_ends += open_ends;
        self.byte_order_marks += byte_order_marks;
        self.passed_over += passed_over;
        self.tools += tools;
        self.other_events += other_events;
        self.lost_waits += lost_waits;
    }
}
