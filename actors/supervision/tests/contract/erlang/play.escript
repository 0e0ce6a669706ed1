#!/usr/bin/env escript
%% -*- erlang -*-
%%! -kernel logger_level none
%% Plays scenarios with OTP's own supervisor and prints what happens.
-mode(compile).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, start_worker/1, start_sub/1]).

%% The words that say what is there at the beginning.
-define(SETUP, ["child", "bare", "spoilt", "sub", "inner"]).

main([File]) ->
    process_flag(trap_exit, true),
    ets:new(log, [named_table, public, ordered_set]),
    ets:new(spoilt, [named_table, public]),
    ets:new(pids, [named_table, public]),
    ets:new(plans, [named_table, public]),
    ets:new(habits, [named_table, public]),
    {ok, Text} = file:read_file(File),
    Lines = [string:lexemes(Line, " ") || Line <- string:lexemes(binary_to_list(Text), "\n"), hd(Line) =/= $#],
    play(Lines, none, false).

play([], _, _) -> ok;
play([["scenario", Name] | Rest], _, _) ->
    [ets:delete_all_objects(Table) || Table <- [log, spoilt, pids, plans, habits]],
    io:format("scenario ~s~n", [Name]),
    play(Rest, none, false);
play([["supervisor", Strategy | _] = [_ | Flags] | Rest], _, _) ->
    {Setup, Steps} = lists:splitwith(fun([Word | _]) -> lists:member(Word, ?SETUP) end, Rest),
    [spoil(Id, Times) || ["spoilt", Id, Times] <- Setup],
    [plan(Id, SubFlags, [spec(Child, "static") || ["inner", Sub | Child] <- Setup, Sub =:= Id])
        || ["sub", Id, _, _ | SubFlags] <- Setup],
    plan("house", Flags, [spec(Line, Strategy) || [Word | _] = Line <- Setup, Word =/= "spoilt", Word =/= "inner"]),
    IsDynamic = Strategy =:= "simple_one_for_one",
    Supervisor = case start_sub("house") of
        {ok, Pid} -> say("started", []), Pid;
        {error, _} -> say("refused", []), none
    end,
    settle(Supervisor),
    tell(IsDynamic),
    play(Steps, Supervisor, IsDynamic);
play([["change" | Flags] | Rest], Supervisor, IsDynamic) when Supervisor =/= none ->
    {Becomes, Steps} = lists:splitwith(fun([Word | _]) -> Word =:= "becomes" end, Rest),
    plan("house", Flags, [spec(["child" | Child], "static") || ["becomes" | Child] <- Becomes]),
    sys:suspend(Supervisor),
    case sys:change_code(Supervisor, ?MODULE, none, none) of
        ok -> say("change ok", []);
        {error, _} -> say("change refused", [])
    end,
    sys:resume(Supervisor),
    settle(Supervisor),
    tell(IsDynamic),
    play(Steps, Supervisor, IsDynamic);
play([_ | Rest], none, IsDynamic) -> play(Rest, none, IsDynamic);
play([Step | Rest], Supervisor, IsDynamic) ->
    step(list_to_atom(hd(Step)), tl(Step), Supervisor, IsDynamic),
    Left = settle(Supervisor),
    tell(IsDynamic),
    play(Rest, Left, IsDynamic).

%% What a supervisor begins with, and becomes by a change.
plan(Id, [Strategy, Restarts, Seconds, Auto], Specs) ->
    Flags = #{strategy => list_to_atom(Strategy), intensity => list_to_integer(Restarts),
              period => list_to_integer(Seconds), auto_shutdown => list_to_atom(Auto)},
    ets:insert(plans, {Id, {Flags, Specs}}).

spec(["bare", Id], _) -> #{id => Id, start => {?MODULE, start_worker, [Id]}};
spec(["sub", Id, Restart, Weight | _], _) ->
    #{id => Id, start => {?MODULE, start_sub, [Id]}, type => supervisor, restart => list_to_atom(Restart),
      significant => Weight =:= "significant"};
spec(["child", Id, Restart, Weight | Habits], Strategy) ->
    ets:insert(habits, {Id, Habits}),
    Arguments = case Strategy of "simple_one_for_one" -> []; _ -> [Id] end,
    Spec = #{id => Id, start => {?MODULE, start_worker, Arguments}, restart => list_to_atom(Restart),
             significant => Weight =:= "significant"},
    case [shutdown(How) || "shutdown=" ++ How <- Habits] of
        [] -> Spec;
        [Shutdown] -> Spec#{shutdown => Shutdown}
    end.

shutdown("brutal") -> brutal_kill;
shutdown("infinity") -> infinity;
shutdown(Milliseconds) -> list_to_integer(Milliseconds).

step(exit, Arguments, _, _) ->
    [Id, How] = Arguments,
    leave(ets:lookup_element(pids, Id, 2), How);
step(spoil, Arguments, _, _) ->
    [Id, Times] = Arguments,
    spoil(Id, Times);
step(wait, Arguments, _, _) -> timer:sleep(list_to_integer(hd(Arguments)));
step(start, Arguments, Supervisor, _) ->
    say("start_child ~s", [answer(supervisor:start_child(Supervisor, child(hd(Arguments), tl(Arguments))))]);
step(terminate, Arguments, Supervisor, IsDynamic) ->
    say("terminate_child ~s", [answer(supervisor:terminate_child(Supervisor, name(hd(Arguments), IsDynamic)))]);
step(restart, Arguments, Supervisor, _) ->
    say("restart_child ~s", [answer(supervisor:restart_child(Supervisor, hd(Arguments)))]);
step(delete, Arguments, Supervisor, _) ->
    say("delete_child ~s", [answer(supervisor:delete_child(Supervisor, hd(Arguments)))]);
step(children, _, Supervisor, IsDynamic) ->
    Names = names(supervisor:which_children(Supervisor), IsDynamic),
    say("children ~s", [lists:join(" ", lists:sort(Names))]);
step(order, _, Supervisor, IsDynamic) ->
    %% The last one comes first there.
    say("order ~s", [lists:join(" ", lists:reverse(names(supervisor:which_children(Supervisor), IsDynamic)))]);
step(count, _, Supervisor, _) ->
    Counts = supervisor:count_children(Supervisor),
    Of = fun(What) -> proplists:get_value(What, Counts) end,
    say("count ~p specs ~p active ~p supervisors ~p workers", [Of(specs), Of(active), Of(supervisors), Of(workers)]);
step(rules, [Id], Supervisor, _) ->
    case supervisor:get_childspec(Supervisor, Id) of
        {ok, #{restart := Restart, shutdown := Shutdown, type := Type, significant := Significant}} ->
            say("rules ~p ~p ~p ~p", [Restart, Shutdown, Type, Significant]);
        {error, Reason} -> say("rules ~p", [Reason])
    end;
step(stop, ["timed"], Supervisor, _) ->
    Before = erlang:monotonic_time(millisecond),
    Monitor = monitor(process, Supervisor),
    exit(Supervisor, shutdown),
    receive {'DOWN', Monitor, process, _, _} -> ok end,
    %% Rounded, because a busy machine takes longer.
    say("took ~p", [(erlang:monotonic_time(millisecond) - Before) div 500 * 500]);
step(ended, _, _, _) -> say("it has not ended", []);
step(stop, _, Supervisor, _) -> exit(Supervisor, shutdown).

leave(Pid, How) ->
    Monitor = monitor(process, Pid),
    case list_to_atom(How) of
        kill -> exit(Pid, kill);
        because -> gen_server:cast(Pid, {leave, {shutdown, because}});
        Reason -> gen_server:cast(Pid, {leave, Reason})
    end,
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.

child(Id, []) -> [Id];
child(Id, Rest) -> spec(["child", Id | Rest], "static").

name(Id, true) -> ets:lookup_element(pids, Id, 2);
name(Id, false) -> Id.

names([], _) -> [];
names([{_, Pid, _, _} | Rest], true) when is_pid(Pid) ->
    [Id || {Id, Other} <- ets:tab2list(pids), Other =:= Pid] ++ names(Rest, true);
names([{Id, Pid, _, _} | Rest], false) when is_pid(Pid) -> [Id | names(Rest, false)];
names([{Id, _, _, _} | Rest], IsDynamic) -> [Id ++ ":down" | names(Rest, IsDynamic)].

answer(ok) -> "ok";
answer({ok, undefined}) -> "ignored";
answer({ok, _}) -> "ok";
answer({ok, _, Info}) -> "ok, " ++ Info;
answer({error, {already_started, _}}) -> "already_started";
answer({error, spoilt}) -> "failed";
answer({error, Reason}) when is_atom(Reason) -> atom_to_list(Reason);
answer({error, _}) -> "failed".

%% Waits until the supervisor has nothing to do, and returns it unless it has ended.
settle(none) -> none;
settle(Supervisor) ->
    receive {'EXIT', Supervisor, Reason} -> say("ended ~p", [Reason]), none
    after 10 ->
        try [1 || {_, restarting, _, _} <- supervisor:which_children(Supervisor)] of
            [] -> receive {'EXIT', Supervisor, Reason} -> say("ended ~p", [Reason]), none after 10 -> Supervisor end;
            _ -> settle(Supervisor)
        catch exit:_ -> settle(Supervisor)
        end
    end.

spoil(Id, Times) -> ets:insert(spoilt, {Id, list_to_integer(Times)}).
say(Format, Arguments) -> ets:insert(log, {erlang:unique_integer([monotonic]), io_lib:format(Format, Arguments)}).

tell(IsDynamic) ->
    Lines = [lists:flatten(Line) || {_, Line} <- ets:tab2list(log)],
    ets:delete_all_objects(log),
    %% Children that stop all at once have no order.
    [io:format("~s~n", [Line]) || Line <- case IsDynamic of true -> lists:sort(Lines); false -> Lines end].

start_worker(Id) ->
    case {gen_server:start_link(?MODULE, {worker, Id}, []), has(Id, "info")} of
        {{ok, Pid}, true} -> {ok, Pid, "so it says"};
        {Started, _} -> Started
    end.

start_sub(Id) -> supervisor:start_link(?MODULE, {supervisor, Id}).

habits(Id) -> case ets:lookup(habits, Id) of [{_, Habits}] -> Habits; [] -> [] end.
has(Id, Habit) -> lists:member(Habit, habits(Id)).

init({supervisor, Id}) -> {ok, ets:lookup_element(plans, Id, 2)};
init({worker, Id}) ->
    process_flag(trap_exit, true),
    case {has(Id, "ignores"), ets:lookup(spoilt, Id)} of
        {true, _} -> ignore;
        {_, [{Id, Times}]} when Times > 0 ->
            ets:insert(spoilt, {Id, Times - 1}),
            say("fail ~s", [Id]),
            {stop, spoilt};
        _ ->
            ets:insert(pids, {Id, self()}),
            say("start ~s", [Id]),
            {ok, {Id, stays}}
    end.

handle_call(_, _, State) -> {reply, ok, State}.
handle_cast({leave, Reason}, {Id, _}) -> {stop, Reason, {Id, leaves}}.
handle_info(_, State) -> {noreply, State}.
terminate(_, {Id, stays}) ->
    say("stop ~s", [Id]),
    [begin timer:sleep(list_to_integer(Time)), say("stopped ~s", [Id]) end || "stops=" ++ Time <- habits(Id)];
terminate(_, _) -> ok.
