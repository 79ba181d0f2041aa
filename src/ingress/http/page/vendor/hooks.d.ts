// What of preact's hooks the page uses, for `tsc`.
export function useState<T>(first: T): [T, (next: T | ((old: T) => T)) => void];
export function useState(first: any): [any, (next: any) => void];
export function useEffect(act: () => any, when?: any[]): void;
export function useLayoutEffect(act: () => any, when?: any[]): void;
export function useRef<T = any>(first: T): { current: T };
export function useCallback<T extends Function>(act: T, when: any[]): T;
