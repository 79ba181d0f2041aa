// Mails that try to run something, to load something, to lead away, or to look like what they are not.
"use strict";

const script = "<img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>";

/** HTML, by what it tries; `elsewhere` is an address that must never be asked. */
const htmls = (elsewhere) => ({
  refresh: `<meta http-equiv="refresh" content="0;url=${elsewhere}/">${script}`,
  "refresh, oddly written": `<MeTa hTTp-eQuiv=" &#82;efresh" content=" 0 ; URL='${elsewhere}/refresh'"><meta http-equiv=set-cookie content=a=b>`,
  "a form and a link that runs": `<p>${script}</p><a href="javascript:alert(4)">x</a><form action="${elsewhere}/"><button>b</button></form>`,
  "a form that sends itself": `<form id=f action="${elsewhere}/form"><input name=p autofocus onfocus="f.submit()"></form><script>f.submit()</script>
    <button form=f formaction="${elsewhere}/button">b</button><input type=image src="${elsewhere}/input.gif"><isindex action="${elsewhere}/index">`,
  "style in SVG": `<svg><style><img src=x onerror=alert(5)></style></svg><math><mtext></form><form><mglyph><style></math><img src onerror=alert(6)>`,
  "style that loads": `<style>@import url(${elsewhere}/x.css); body { background: url(${elsewhere}/x.png) }</style><p>css</p>`,
  "style that loads, oddly written": `<style>@\\69mport "${elsewhere}/escaped.css"; @font-face { font-family: f; src: url(${elsewhere}/f.woff2) } p { font-family: f; cursor: \\75rl(${elsewhere}/c.cur), auto;
    list-style: image-set("${elsewhere}/set.png" 1x); content: url(${elsewhere}/content.png); border-image: url(${elsewhere}/border.png); filter: url(${elsewhere}/f.svg#x) } p::before { content: url(${elsewhere}/before.png) }</style>
    <p style="background-image: url('${elsewhere}/attribute.png'); behavior: url(${elsewhere}/b.htc); -moz-binding: url(${elsewhere}/b.xml#x)">css</p><style>@charset "x"; @namespace url(${elsewhere}/n);</style>`,
  "style that breaks out": `<style></style><img src=x onerror=alert(20)><style><!--</style><img src=x onerror=alert(21)>--></style><style>a{}</sty</style><script>alert(22)</script>`,
  frames: `<iframe srcdoc="<script>parent.alert(7)</script>"></iframe><object data="data:text/html,<script>alert(8)</script>"></object><frameset><frame src="${elsewhere}/frame"></frameset>`,
  "objects": `<object data="${elsewhere}/o.swf" type="application/x-shockwave-flash"><param name=movie value="${elsewhere}/m.swf"></object><embed src="${elsewhere}/e.pdf"><applet code=x archive="${elsewhere}/a.jar"></applet>
    <portal src="${elsewhere}/portal"></portal><fencedframe></fencedframe>`,
  "a base": `<base href="${elsewhere}/"><link rel="stylesheet" href="x.css"><img src="${elsewhere}/pixel.gif"><img srcset="${elsewhere}/2.gif 2x">`,
  "hints to the browser": ["preload", "prefetch", "preconnect", "dns-prefetch", "prerender", "modulepreload", "icon", "manifest"].map((rel) => `<link rel=${rel} as=image href="${elsewhere}/${rel}">`).join("") +
    `<script type=speculationrules>{"prefetch":[{"source":"list","urls":["${elsewhere}/rules"]}]}</script><a href="${elsewhere}/link" ping="${elsewhere}/ping">a link</a>`,
  media: `<picture><source srcset="${elsewhere}/s.webp"><img src="data:," srcset="${elsewhere}/i.webp 1x"></picture><video autoplay poster="${elsewhere}/p.png" src="${elsewhere}/v.mp4"><track default src="${elsewhere}/t.vtt"></video>
    <audio autoplay src="${elsewhere}/a.mp3"></audio><bgsound src="${elsewhere}/b.wav"><body background="${elsewhere}/bg.png"><table background="${elsewhere}/t.png"><tr><td background="${elsewhere}/td.png">x</table><img lowsrc="${elsewhere}/l.gif" dynsrc="${elsewhere}/d.gif">`,
  SVG: `<svg xmlns:xlink="http://www.w3.org/1999/xlink"><use href="data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg onload=alert(23)/>#x"/><image xlink:href="${elsewhere}/svg.png"/>
    <foreignObject><img src=x onerror=alert(24)><iframe src="javascript:alert(25)"></iframe></foreignObject><a xlink:href="javascript:alert(26)"><text y=20>x</text></a>
    <animate href=#l attributeName=href values="javascript:alert(27)"/><set attributeName=onmouseover to=alert(28)><feImage href="${elsewhere}/fe.png"/><script href="${elsewhere}/s.js"/></svg><a id=l href=#>l</a>`,
  MathML: `<math><maction actiontype="statusline#${elsewhere}" xlink:href="javascript:alert(29)">x</maction><annotation-xml encoding="text/html"><img src=x onerror=alert(30)></annotation-xml><mi href="javascript:alert(31)">y</mi></math>
    <math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(32)&gt;">`,
  "what is parsed twice": `<noscript><p title="</noscript><img src=x onerror=alert(33)>"></noscript><template><img src=x onerror=alert(34)></template><div><template shadowrootmode=open><script>alert(35)</script></template></div>
    <svg><p><style><g title="</style><img src onerror=alert(36)>"></svg><textarea><img title="</textarea><img src=x onerror=alert(37)>"></textarea><xmp><p title="</xmp><img src=x onerror=alert(38)>"></xmp>
    <select><style></select><img src=x onerror=alert(39)></style></select><noembed><img title="</noembed><img src=x onerror=alert(40)>"></noembed><form><math><mtext></form><form><mglyph><svg><mtext><textarea><path id="</textarea><img onerror=alert(41) src=1>">
    <table><caption><svg><title><table><style><a title="</style><img src=x onerror=alert(42)>"></table></svg></caption></table><![CDATA[<img src=x onerror=alert(43)>]]><?php <img src=x onerror=alert(44)> ?><!--><img src=x onerror=alert(45)>-->`,
  "links that run": ["java&#10;script:alert(46)", "&#1;javascript:alert(47)", "java\tscript:alert(48)", "javascript&colon;alert(49)", "  JaVaScRiPt:alert(50)", "vbscript:msgbox(51)", "data:text/html,<script>alert(52)</script>",
    "da&#9;ta:text/html;base64,PHNjcmlwdD5hbGVydCg1Myk8L3NjcmlwdD4=", "&#32;&#9;data&colon;text/html,<script>alert(54)</script>", "blob:http://127.0.0.1/x", "blob&colon;null/x", "file:///etc/passwd", "//127.0.0.1/x", "/v1/mails", "jav\u000cascript:alert(55)", "view-source:x", "filesystem:x", "intent://x"]
    .map((href, n) => `<a href="${href}" target=_top>${n}</a><img src="${href}"><area href="${href}"><blockquote cite="${href}">q</blockquote>`).join(""),
  "parts of its own": `<img src="cid:svg@x"><img src="cid:html@x"><img src="cid:lies@x"><img src="cid:../../v1/mails"><img src="cid:%2e%2e/x"><img src="cid:"><img src="&#9;cid:svg@x"><a href="cid:html@x">x</a><iframe src="cid:html@x"></iframe><img src="cid:self@x"><img src="cid:${"x".repeat(5000)}">`,
  "what covers the page": `<div style="position:fixed;inset:0;z-index:2147483647;background:red">Sign in again: <a href="${elsewhere}/login">here</a></div><dialog open>You are signed out</dialog><p popover=manual>x</p>`,
  "names of the page's own": `<img name=getElementById><form name=body><input name=parentNode></form><a id=view name=location href="${elsewhere}/clobbered">x</a><p id=page>x</p>`,
  "events of elements": ["onclick", "onfocus", "ontoggle", "onpointerenter", "onbeforetoggle", "onscrollsnapchange", "onauxclick", "oncontentvisibilityautostatechange"].map((on) => `<details open ${on}=alert(56) tabindex=0 autofocus><summary ${on.toUpperCase()}="alert(57)">x</summary></details>`).join("")
    + `<p/onclick=alert(58) style=animation:x onanimationstart=alert(59)>x<style>@keyframes x{}</style><x onclick=alert(60) contenteditable onbeforeinput=alert(61)>y</x>`,
  "10 MB": `<p>${"<b>long</b> ".repeat(900_000)}</p>`,
  "10 MB in one attribute": `<p title="${"x".repeat(10_000_000)}">x</p>`,
  "deep elements": "<div>".repeat(60_000),
  "deep tables": "<table><tr><td>".repeat(20_000),
});

const unseen = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u{e0041}\u{e0001}\u2066\u2067\u2068\u2069\u061c\u202a\u202b";

const subjects = [script, "\u202egnp.exe\u202c invoice", "</title></script><script>alert(9)</script>", "{{7*7}} ${alert(10)}", "a\u0000b\u001b[31m", "'\"><b onmouseover=alert(11)>",
  `pay${unseen}pal`, "\u2067\u202eevil\u2069 \u2028 second line", `Zalgo${"\u0301".repeat(400)}`, "x".repeat(900), "\u3164\u115f\uffa0", "javascript:alert(62)"];

/** Names of attachments. */
const names = ["..\\..\\<img src=x onerror=alert(13)>\u202efdp.html", "..\\..\\x.html", "../../../../etc/passwd", "/etc/passwd", "C:\\autoexec.bat", "con.txt", ".htaccess", "x.html\u0000.png", `a"; filename="b.html`, "x\r\nSet-Cookie: a=b",
  `invoice\u202etxt.exe`, `pay${unseen}.pdf`, "%2e%2e%2fx.html", "x.html;.png", `${"n".repeat(5000)}.html`, "\u3164", "...", "<script>alert(63)</script>.svg"];

const png = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
const svg = Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(14)"><script>alert(15)</script></svg>`);

/** Parts whose type says something else than their bytes, and such as a mail's HTML names. */
const attachments = [
  { filename: "page.png", content_type: "image/png", content: Buffer.from(script) },
  { filename: "x.svg", content_type: "image/svg+xml", content: svg },
  { filename: "x.txt", content_type: "text/html", content: png },
  { filename: "x.xhtml", content_type: "application/xhtml+xml", content: svg },
  { filename: "x.xml", content_type: "text/xml", content: Buffer.from(`<?xml-stylesheet href="javascript:alert(16)"?><x/>`) },
  { filename: "x.js", content_type: "text/javascript", content: Buffer.from("alert(17)") },
  { filename: "x.pdf", content_type: "application/pdf", content: Buffer.from("%PDF-1.4 <script>alert(18)</script>") },
  { filename: "i.svg", inline_id: "svg@x", content_type: "image/svg+xml", content: svg },
  { filename: "i.html", inline_id: "html@x", content_type: "text/html", content: Buffer.from(script) },
  { filename: "i.png", inline_id: "lies@x", content_type: "image/png", content: svg },
];

/** Whole messages, as another program may have made them. */
const messages = (elsewhere) => {
  const head = `From: \u202e"<img src=x onerror=alert(64)>${unseen}" <shop@example.com>\r\nTo: ada@example.org\r\nMIME-Version: 1.0\r\n`;
  const html = `<p>${script}</p><img src="cid:self@x">`;
  return {
    "10,000 fields": `${head}Subject: many fields\r\n${Array.from({ length: 10_000 }, (_, n) => `X-${n}: ${n % 3 ? "v" : script}\r\n`).join("")}Content-Type: text/html\r\n\r\n${html}`,
    "a long field": `${head}Subject: ${Array.from({ length: 2000 }, () => "<b>word</b>").join("\r\n ")}\r\nContent-Type: text/html\r\n\r\n${html}`,
    "a part that names itself": `${head}Subject: =?utf-8?q?=E2=80=AEself=3Cscript=3Ealert(65)=3C/script=3E?=\r\nContent-Type: multipart/related; boundary=a\r\n\r\n--a\r\nContent-Type: text/html\r\nContent-ID: <self@x>\r\n\r\n${html}\r\n--a\r\nContent-Type: image/png\r\nContent-ID: <self@x>\r\n\r\n${html}\r\n--a--\r\n`,
    "parts in parts": `${head}Subject: deep\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n${Array.from({ length: 300 }, (_, n) => `--b${n}\r\nContent-Type: multipart/mixed; boundary=b${n + 1}\r\n\r\n`).join("")}--b300\r\nContent-Type: text/html\r\n\r\n${html}\r\n`,
    "a name in many pieces": `${head}Subject: pieces\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: text/html\r\n\r\n${html}\r\n--a\r\nContent-Type: application/octet-stream; name="=?utf-8?b?Li5cLi5cZXZpbC5odG1s?="\r\nContent-Disposition: attachment; filename*0*=utf-8''..%5c..%5c; filename*1*=%E2%80%AEx; filename*2=".html"\r\n\r\nx\r\n--a--\r\n`,
    "a message within": `${head}Subject: within\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: text/plain\r\n\r\nsee below\r\n${["message/rfc822", "message/global", "message/partial; id=x; number=1; total=1"].map((type) =>
      `--a\r\nContent-Type: ${type}\r\n\r\nFrom: \u202e<script>alert(68)</script> <x@example.com>\r\nSubject: ${script}${unseen}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html; name="${script.replace(/"/g, "")}"\r\n\r\n<base href="${elsewhere}/"><link rel=stylesheet href=within.css>${html}<img src="${elsewhere}/within.gif">\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: text/html\r\n\r\n${html}\r\n--b--\r\n`).join("")}--a--\r\n`,
    "parts that lie elsewhere": `${head}Subject: elsewhere\r\nContent-Base: ${elsewhere}/\r\nContent-Location: ${elsewhere}/location\r\nContent-Type: multipart/related; boundary=a\r\n\r\n--a\r\nContent-Type: text/html\r\nContent-Base: ${elsewhere}/\r\nContent-Location: ${elsewhere}/part\r\n\r\n${html}<img src="relative.gif"><a href="relative">x</a><img src="mid:x@y"><img src="mhtml:x">
--a\r\nContent-Type: message/external-body; access-type=URL; URL="${elsewhere}/external"\r\n\r\nContent-Type: text/html\r\nContent-ID: <self@x>\r\n\r\n--a\r\nContent-Type: image/gif\r\nContent-Location: ${elsewhere}/relative.gif\r\n\r\n${html}\r\n--a--\r\n`,
    "other texts beside it": `${head}Subject: beside\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\nContent-Type: text/plain\r\n\r\nx\r\n--a\r\nContent-Type: text/x-amp-html\r\n\r\n<!doctype html><html amp4email><head><script async src="${elsewhere}/amp.js"></script></head><body>${html}<amp-img src="${elsewhere}/amp.gif"></amp-img></body></html>\r\n--a\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nSUMMARY:${script}\r\nATTACH:${elsewhere}/calendar\r\nURL:javascript:alert(69)\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n--a\r\nContent-Type: text/enriched\r\n\r\n<param>${script}</param>\r\n--a\r\nContent-Type: text/html\r\n\r\n${html}\r\n--a--\r\n`,
    "fields that lead somewhere": `${head}Subject: fields\r\nList-Unsubscribe: <javascript:alert(70)>, <data:text/html,${script.replace(/ /g, "%20")}>, <${elsewhere}/unsubscribe>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Archive: <${elsewhere}/archive>\r\nX-Face: ${script}\r\nFace: iVBORw0KGgo=\r\nBIMI-Location: v=BIMI1; l=${elsewhere}/bimi.svg\r\nDisposition-Notification-To: <spy@example.com>\r\nReturn-Receipt-To: <spy@example.com>\r\nRefresh: 0;url=${elsewhere}/field\r\nLink: <${elsewhere}/link.css>; rel=stylesheet\r\nContent-Security-Policy: default-src *\r\nContent-Type: text/html\r\n\r\n${html}`,
    "an escape to other letters": `${head}Subject: =?iso-2022-jp?b?GyRCPHNjcmlwdD4bKEI=?= =?utf-16?b?ADwAcwBjAHIAaQBwAHQAPg==?=\r\nContent-Type: text/html; charset=iso-2022-jp\r\n\r\n<p title="\u001b$B"><img src=x onerror=alert(71)>\u001b(B">x</p><a title="\u001b(J\\" href="javascript:alert(72)">${html}`,
    "HTML of two bytes a letter": `${head}Subject: wide\r\nContent-Type: text/html; charset=utf-16le\r\nContent-Transfer-Encoding: base64\r\n\r\n${Buffer.from(`<p>${script}</p><img src="${elsewhere}/wide.gif"><base href="${elsewhere}/">`, "utf16le").toString("base64").replace(/.{76}/g, "$&\r\n")}\r\n`,
    "letters of other sets": `${head}Subject: =?utf-7?q?+ADw-script+AD4-alert(66)+ADw-/script+AD4-?=\r\nContent-Type: text/html; charset=utf-7\r\n\r\n+ADw-script+AD4-alert(67)+ADw-/script+AD4-<img src="${elsewhere}/utf7.gif">`,
  };
};

module.exports = { script, htmls, subjects, names, attachments, messages };
