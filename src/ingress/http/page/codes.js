// What a server's codes mean, in words: enhanced status codes (RFC 3463 and IANA's registry), and replies of SMTP
// where a server sends none (RFC 5321 §4.2).

/** By subject and detail; the class says whether it is for now or for good. */
const details = {
  "0.0": "nothing more is said", "1.0": "something about the recipient's address", "1.1": "there is no such mailbox",
  "1.2": "the recipient's domain takes no mail, or does not exist", "1.3": "the recipient's address is not valid",
  "1.4": "the recipient's address fits several mailboxes", "1.6": "the mailbox has moved, and no new address is known",
  "1.7": "the sender's address is not valid", "1.8": "the sender's domain does not exist or takes no mail",
  "1.9": "handed on to a system that reports nothing back", "1.10": "the recipient's domain says that it takes no mail",
  "2.0": "something about the mailbox", "2.1": "the mailbox is disabled", "2.2": "the mailbox is full",
  "2.3": "the message is longer than this mailbox takes", "2.4": "the mailing list cannot be expanded",
  "3.0": "something about the recipient's mail system", "3.1": "the recipient's mail system is full",
  "3.2": "the recipient's mail system takes no mail at the moment",
  "3.3": "the recipient's mail system cannot do what was asked",
  "3.4": "the message is bigger than the recipient's mail system takes", "3.5": "the recipient's mail system is set up wrongly",
  "3.6": "the priority was changed", "4.0": "something on the network", "4.1": "the next host does not answer",
  "4.2": "the connection broke or is unusable", "4.3": "a directory such as DNS could not be asked",
  "4.4": "no route to the recipient was found", "4.5": "the mail system is congested", "4.6": "the mail goes round in a loop",
  "4.7": "delivery took too long", "5.0": "something about the dialogue", "5.1": "a command was not expected there",
  "5.2": "a command was not understood", "5.3": "too many recipients at once", "5.4": "a command's arguments are not valid",
  "5.5": "the other side speaks another version", "5.6": "the answer to the login is too long",
  "6.0": "something about the message's content", "6.1": "this kind of content is not taken",
  "6.2": "the content would have to be converted, which is not allowed",
  "6.3": "the content would have to be converted, which is not possible", "6.4": "the content was converted, with losses",
  "6.5": "converting the content failed", "6.6": "the content is not available",
  "6.7": "addresses beyond ASCII are not taken", "6.8": "a reply beyond ASCII is needed", "6.9": "a header beyond ASCII is not taken",
  "7.0": "the receiver's policy forbids it", "7.1": "delivery is not authorised; greylisting answers like this as well",
  "7.2": "expanding the mailing list is not allowed", "7.3": "security would have to be converted, which is not possible",
  "7.4": "a security feature is not supported", "7.5": "a cryptographic operation failed", "7.6": "the algorithm is not supported",
  "7.7": "the message was changed on its way", "7.8": "the login was refused", "7.9": "the way of logging in is too weak",
  "7.10": "encryption is needed", "7.11": "this way of logging in needs encryption", "7.12": "the password must be changed first",
  "7.13": "the account is disabled", "7.14": "a relationship of trust is needed", "7.15": "the priority is too low at the moment",
  "7.16": "the message is too big for its priority", "7.17": "the mailbox has changed hands since",
  "7.18": "the domain has changed hands since", "7.19": "it cannot be checked who owns the mailbox",
  "7.20": "no DKIM signature passes", "7.21": "no DKIM signature is acceptable", "7.22": "no DKIM signature is of the author's domain",
  "7.23": "SPF fails: the server that sent it may not send for this domain", "7.24": "SPF could not be checked",
  "7.25": "the sending server's address has no name, or another one (reverse DNS)", "7.26": "SPF, DKIM or DMARC fail together",
  "7.27": "the sender's domain takes no mail itself (null MX)", "7.28": "too much mail from this sender at the moment",
  "7.29": "the ARC chain is not valid", "7.30": "TLS is required, and cannot be had on the whole way",
};

const replies = {
  250: "taken", 251: "taken, and forwarded", 252: "taken, unverified", 354: "go on", 421: "the server closes the connection",
  429: "too many requests", 430: "something is not ready", 432: "the password must be changed first",
  450: "the mailbox is not available at the moment", 451: "an error at the server, or greylisting",
  452: "the server has no room at the moment", 454: "TLS or login is not available at the moment",
  455: "the server cannot meet the parameters now", 500: "the command was not understood", 501: "the arguments are not valid",
  502: "the command is not supported", 503: "the commands came in the wrong order", 504: "the parameter is not supported",
  521: "the host takes no mail at all", 523: "the message is too big", 530: "a login is needed", 534: "the way of logging in is too weak",
  535: "the login was refused", 538: "this way of logging in needs encryption",
  550: "the mailbox is not available, or policy forbids it", 551: "the recipient is not of this server",
  552: "the mailbox is full, or the message too big", 553: "the mailbox's name is not allowed",
  554: "the transaction failed, or policy forbids it", 555: "the parameters are not understood", 556: "the domain takes no mail",
};

const classes = { 2: "Taken", 4: "Not now", 5: "Refused for good" };

/** What an attempt's codes mean, in a sentence. */
export function meaning(attempt) {
  if (!attempt.code) return "There was no answer that would settle it.";
  const [kind, ...detail] = (attempt.enhanced || "").split(".");
  const said = details[detail.join(".")];
  const how = classes[kind] || classes[Math.floor(attempt.code / 100)] || "Unclear";
  if (how === classes[2]) return "Taken: the relay is responsible for it from here on.";
  const why = said && said !== details["0.0"] ? said : replies[attempt.code] || said;
  return why ? `${how}: ${why}.` : `${how}.`;
}
