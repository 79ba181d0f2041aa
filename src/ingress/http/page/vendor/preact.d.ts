// What of preact the page uses, for `tsc`.
export function h(kind: any, props: any, ...children: any[]): any;
export function render(what: any, into: Element | null): void;
