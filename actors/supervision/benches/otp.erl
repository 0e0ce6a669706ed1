%% The same measurements on Erlang/OTP's own supervisor: escript otp.erl silent|logging CASTS RESTARTS DEATHS CHILDREN
%%
%% `logging` is how OTP ships: each death is reported on standard output. Prints one line to standard error: casts per second, restart p50 and p99 in microseconds, the milliseconds that so many simultaneous deaths
%% take, and the bytes of memory that an idle supervised child costs.
-module(otp).
-mode(compile).
-export([main/1, init/1, start_worker/1, handle_call/3, handle_cast/2, handle_info/2]).

main([Mode, Casts, Restarts, Deaths, Children]) ->
    [logger:set_primary_config(level, none) || Mode =:= "silent"],
    process_flag(trap_exit, true),
    Cast = casts(list_to_integer(Casts)),
    {Half, Worst} = restarts(list_to_integer(Restarts)),
    Died = deaths(list_to_integer(Deaths)),
    Bytes = memory(list_to_integer(Children)),
    io:format(standard_error, "~.1f ~.2f ~.2f ~.3f ~.1f~n", [Cast, Half, Worst, Died, Bytes]).

%% The supervisor, one_for_one with any number of restarts.
init({tree, Children}) ->
    {ok, {#{strategy => one_for_one, intensity => 1000000000, period => 1}, Children}};
%% A worker tells the reporter that its first message was handled.
init({worker, Reporter}) ->
    self() ! first,
    {ok, {Reporter, 0, undefined}}.

start_worker(Reporter) -> gen_server:start_link(?MODULE, {worker, Reporter}, []).

child(Id) -> #{id => Id, start => {?MODULE, start_worker, [self()]}}.

handle_call(_, _, State) -> {reply, ok, State}.

handle_cast({count, Last}, {Reporter, Last, _}) -> Reporter ! counted, {noreply, {Reporter, 0, undefined}};
handle_cast({count, _}, {Reporter, Seen, Kept}) -> {noreply, {Reporter, Seen + 1, Kept}};
handle_cast(fail, {Reporter, _, _}) ->
    Reporter ! {failing, erlang:monotonic_time(nanosecond)},
    error(as_told).

handle_info(first, State = {Reporter, _, _}) ->
    Reporter ! {first, self(), erlang:monotonic_time(nanosecond)},
    {noreply, State}.

tree(Ids) ->
    {ok, Tree} = supervisor:start_link(?MODULE, {tree, [child(Id) || Id <- Ids]}),
    Workers = [receive {first, Pid, _} -> Pid end || _ <- Ids],
    {Tree, Workers}.

stop(Tree) -> gen_server:stop(Tree, shutdown, infinity).

casts(Count) ->
    {Tree, [Worker]} = tree([1]),
    Began = erlang:monotonic_time(nanosecond),
    [gen_server:cast(Worker, {count, Count - 1}) || _ <- lists:seq(1, Count)],
    receive counted -> ok end,
    Took = erlang:monotonic_time(nanosecond) - Began,
    stop(Tree),
    Count * 1.0e9 / Took.

restarts(Count) ->
    {Tree, [Worker]} = tree([1]),
    Times = lists:sort(restarts(Count, Worker, [])),
    stop(Tree),
    {lists:nth(max(1, Count div 2), Times) / 1000, lists:nth(max(1, Count * 99 div 100), Times) / 1000}.

restarts(0, _, Times) -> Times;
restarts(Count, Worker, Times) ->
    gen_server:cast(Worker, fail),
    Began = receive {failing, At} -> At end,
    {Next, Ended} = receive {first, Pid, Then} -> {Pid, Then} end,
    restarts(Count - 1, Next, [Ended - Began | Times]).

deaths(Count) ->
    {Tree, Workers} = tree(lists:seq(1, Count)),
    Began = erlang:monotonic_time(nanosecond),
    [gen_server:cast(Worker, fail) || Worker <- Workers],
    [receive {failing, _} -> ok end || _ <- Workers],
    [receive {first, _, _} -> ok end || _ <- Workers],
    Took = erlang:monotonic_time(nanosecond) - Began,
    stop(Tree),
    Took / 1.0e6.

memory(Count) ->
    erlang:garbage_collect(),
    Before = resident(),
    {Tree, _} = tree(lists:seq(1, Count)),
    After = resident(),
    stop(Tree),
    (After - Before) / Count.

resident() ->
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [KiB]} = re:run(Status, "VmRSS:\\s+(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(KiB) * 1024.
