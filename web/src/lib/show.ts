// Writes figures for people: durations, sizes, shares. Takes the words of the language.
import type { Dictionary } from './i18n/dictionary';

export function duration(ms: number, t: Dictionary['stats']): string {
  if (ms < 995) return t.milliseconds(Math.round(ms));
  const seconds = ms / 1000;
  if (seconds < 99.5) return t.seconds(seconds < 9.95 ? seconds.toFixed(1) : seconds.toFixed(0));
  const whole = Math.round(seconds);
  if (whole < 3600) return t.minutes(Math.floor(whole / 60), whole % 60);
  const hours = Math.floor(whole / 3600);
  return hours < 48
    ? t.hours(hours, Math.floor((whole % 3600) / 60))
    : t.days(Math.floor(hours / 24), hours % 24);
}

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = count / 1024;
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${units[at]}`;
}

/** A confidence with enough digits to tell 0.99 from 1. */
export const share = (value: number): string =>
  value >= 0.9995 ? '100 %' : `${(value * 100).toFixed(value >= 0.99 ? 1 : 0)} %`;

export const rate = (perSecond: number): string => perSecond.toFixed(perSecond < 9.95 ? 1 : 0);

export const clock = (second: number): string =>
  `${Math.floor(second / 60)}:${String(Math.floor(second % 60)).padStart(2, '0')}`;
