import { expect, test } from 'vitest';
import { coco, marksJson } from '$lib/answer/coco';
import { inPixels, marksOfData, marksOfText } from '$lib/answer/marks';

test('boxes in a fenced answer are found with their places in the text', () => {
  const text = '```json\n[{"bbox_2d": [711, 309, 852, 449], "label": "purple {circle}"}]\n```';
  const [mark, ...rest] = marksOfText(text);
  expect(rest).toEqual([]);
  expect(mark).toMatchObject({ id: 0, label: 'purple {circle}', box: [711, 309, 852, 449], point: false });
  expect(text.slice(...(mark?.span ?? [0, 0]))).toBe(
    '{"bbox_2d": [711, 309, 852, 449], "label": "purple {circle}"}',
  );
});

test('an answer still being written gives the boxes that are whole', () => {
  const text = 'Here: [{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6';
  expect(marksOfText(text).map((mark) => mark.label)).toEqual(['a']);
});

test('points, several boxes in one object and the older tags are understood', () => {
  expect(marksOfText('{"point_2d": [10, 20], "label": "p"}')).toMatchObject([
    { box: [10, 20, 10, 20], point: true },
  ]);
  expect(marksOfText('{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "b"}')).toHaveLength(2);
  expect(marksOfText('<ref>cat</ref><box>(1,2),(3,4)</box>')).toMatchObject([
    { label: 'cat', box: [1, 2, 3, 4] },
  ]);
});

test('corners in the wrong order are turned, sides beyond the picture are cut, nonsense is left out', () => {
  expect(marksOfText('{"bbox_2d": [900, 800, 100, 1200]}')).toMatchObject([{ box: [100, 800, 900, 1000] }]);
  expect(marksOfText('{"bbox_2d": [1, 2, 3]} {"bbox_2d": "all"} {bbox_2d} plain')).toEqual([]);
});

test('a mark of a structured answer is as sure as its least sure number', () => {
  const data = [
    { bbox_2d: [1, 2, 3, 4], label: 'a' },
    { bbox_2d: [5, 6, 7, 8], label: 'b' },
  ];
  const marks = marksOfData(data, {
    '[0].bbox_2d[0]': 0.9,
    '[0].bbox_2d[1]': 0.4,
    '[0].label': 0.99,
    '[1].label': 1,
  });
  expect(marks.map((mark) => mark.confidence)).toEqual([0.4, 1]);
});

test('thousandths become pixels as the server rounds them', () => {
  expect(inPixels([711, 309, 852, 449], 256, 256)).toEqual([182, 79, 218, 115]);
  expect(inPixels([0, 0, 1000, 1000], 4000, 3001)).toEqual([0, 0, 4000, 3001]);
});

test('COCO has one category per label and widths, not corners', () => {
  const marks = marksOfText(
    '{"bbox_2d":[0,0,500,500],"label":"a"}{"bbox_2d":[500,0,1000,250],"label":"a"}{"point_2d":[1,1],"label":"b"}',
  );
  const file = coco({ name: 'p.png', width: 200, height: 100 }, marks);
  expect(file['categories']).toEqual([
    { id: 1, name: 'a', supercategory: '' },
    { id: 2, name: 'b', supercategory: '', keypoints: ['point'], skeleton: [] },
  ]);
  expect(file['annotations']).toMatchObject([
    { id: 1, category_id: 1, bbox: [0, 0, 100, 50], area: 5000 },
    { id: 2, category_id: 1, bbox: [100, 0, 100, 25] },
    { id: 3, category_id: 2, num_keypoints: 1 },
  ]);
  expect(marksJson({ name: 'p', width: 200, height: 100 }, marks)[0]).toEqual({
    label: 'a',
    bbox_2d: [0, 0, 500, 500],
    bbox_pixels: [0, 0, 100, 50],
  });
});
