// What was typed or pasted, as candidates.

const EXAMPLES = [
  {
    query: "how do snakes find their prey in the dark",
    candidates: [
      "Snakes shed their skin in one piece several times a year.",
      "Python is a programming language named after a comedy group.",
      "Most bats hunt insects at night by listening to echoes of their own calls.",
      "Snake charmers were once a common sight at markets in India.",
      "A boa feels the heartbeat of its prey, and stops squeezing when that has ended.",
      "Owls see well in dim light, and can locate a mouse by sound alone.",
      "By flicking the tongue a snake collects scent, which an organ in the roof of the mouth "
        + "then reads.",
      "The old lighthouse is dark now, and nobody found the keys.",
      "Pit vipers have organs between eye and nostril that sense the warmth of a mouse, even in "
        + "complete darkness.",
      "A rattlesnake's jaw picks up vibrations of the ground from steps nearby.",
    ],
  },
  {
    query: "process was killed with exit code 137, no traceback",
    candidates: [
      "A traceback lists the calls that were active when an exception was raised.",
      "Room 137 is on the first floor, next to the exit.",
      "Exit codes from 1 to 125 are the program's own.",
      "Use pkill -u to end all processes of a user.",
      "The review process ends when two people have approved the code.",
      "An exit code above 128 is 128 plus the number of a signal: 137 means that the process was "
        + "killed by SIGKILL.",
      "Raise the container's memory limit, or lower the batch size, if the pod ends as OOMKilled.",
      "The kernel's out-of-memory killer sends SIGKILL, which no handler can catch; dmesg says "
        + "which process it chose.",
    ],
  },
];

const parsed = text => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** A candidate of a JSON value: {text, name}, the name empty where it has no id. */
const candidate = (value, place) => {
  const {id, _id, text, content, document} = typeof value === "string" ? {text: value} : value ?? {};
  const found = [text, content, document].find(each => typeof each === "string");
  if (found === undefined) {
    throw Error(`Candidate ${place + 1} is neither a text nor an object with "text".`);
  }
  return {text: found, name: String(id ?? _id ?? "")};
};

/**
 * Candidates of a JSON array, of JSONL, or of a text a line: {documents, note}.
 * Throws an Error whose message is for the reader.
 */
const readCandidates = typed => {
  const whole = parsed(typed);
  const lines = typed.split(/\r?\n/).filter(line => line.trim());
  const values = Array.isArray(whole) ? whole : lines.map(parsed);
  const isRecord = value => typeof value === "string" || (value && typeof value === "object");
  if (Array.isArray(whole) || (lines.length && values.every(isRecord))) {
    const documents = values.map(candidate);
    const form = Array.isArray(whole) ? "a JSON array" : "JSONL";
    return {documents, note: `${plural(documents.length, "candidate")}, read as ${form}`};
  }
  const documents = lines.map(line => ({text: line.trim(), name: ""}));
  const wrong = /^\s*[[{]/.test(typed) ? values.findIndex(value => !isRecord(value)) + 1 : 0;
  const doubt = wrong ? `; line ${wrong} is no JSON, so all are taken as they are` : "";
  return {documents, note: `${plural(documents.length, "candidate")}, one a line${doubt}`};
};
