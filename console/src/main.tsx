import { render } from 'preact';
import { App } from './app.tsx';
import { Watch } from './data/watch.ts';

const { origin } = location;
const watch = new Watch(origin);
render(<App watch={watch} origin={origin} />, document.getElementById('console')!);
void watch.run();
