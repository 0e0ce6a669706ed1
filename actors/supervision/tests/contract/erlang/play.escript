#!/usr/bin/env escript
%% -*- erlang -*-
%%! -kernel logger_level none
%% Plays scenarios with OTP's own supervisor and prints what happens.
-mode(compile).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, start_worker/1]).

main([File]) ->
    process_flag(trap_exit, true),
    ets:new(log, [named_table, public, ordered_set]),
    ets:new(spoilt, [named_table, public]),
    ets:new(pids, [named_table, public]),
    {ok, Text} = file:read_file(File),
    Lines = [string:lexemes(Line, " ") || Line <- string:lexemes(binary_to_list(Text), "\n"), hd(Line) =/= $#],
    play(Lines, none, false).

play([], _, _) -> ok;
play([["scenario", Name] | Rest], _, _) ->
    [ets:delete_all_objects(Table) || Table <- [log, spoilt, pids]],
    io:format("scenario ~s~n", [Name]),
    play(Rest, none, false);
play([["supervisor", Strategy, Restarts, Seconds, Auto] | Rest], _, _) ->
    Flags = #{strategy => list_to_atom(Strategy), intensity => list_to_integer(Restarts),
              period => list_to_integer(Seconds), auto_shutdown => list_to_atom(Auto)},
    IsSetup = fun([Word | _]) -> Word =:= "child" orelse Word =:= "spoilt" end,
    {Setup, Steps} = lists:splitwith(IsSetup, Rest),
    [spoil(Id, Times) || ["spoilt", Id, Times] <- Setup],
    Specs = [spec(Id, Restart, Weight, Strategy) || ["child", Id, Restart, Weight] <- Setup],
    IsDynamic = Strategy =:= "simple_one_for_one",
    Supervisor = case supervisor:start_link(?MODULE, {supervisor, Flags, Specs}) of
        {ok, Pid} -> say("started", []), Pid;
        {error, _} -> say("refused", []), none
    end,
    settle(Supervisor),
    tell(IsDynamic),
    play(Steps, Supervisor, IsDynamic);
play([_ | Rest], none, IsDynamic) -> play(Rest, none, IsDynamic);
play([Step | Rest], Supervisor, IsDynamic) ->
    step(list_to_atom(hd(Step)), tl(Step), Supervisor, IsDynamic),
    Left = settle(Supervisor),
    tell(IsDynamic),
    play(Rest, Left, IsDynamic).

spec(Id, Restart, Weight, Strategy) ->
    Arguments = case Strategy of "simple_one_for_one" -> []; _ -> [Id] end,
    #{id => Id, start => {?MODULE, start_worker, Arguments}, restart => list_to_atom(Restart),
      significant => Weight =:= "significant"}.

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
child(Id, [Restart, Weight]) -> spec(Id, Restart, Weight, "static").

name(Id, true) -> ets:lookup_element(pids, Id, 2);
name(Id, false) -> Id.

names([], _) -> [];
names([{_, Pid, _, _} | Rest], true) when is_pid(Pid) ->
    [Id || {Id, Other} <- ets:tab2list(pids), Other =:= Pid] ++ names(Rest, true);
names([{Id, Pid, _, _} | Rest], false) when is_pid(Pid) -> [Id | names(Rest, false)];
names([{Id, _, _, _} | Rest], IsDynamic) -> [Id ++ ":down" | names(Rest, IsDynamic)].

answer(ok) -> "ok";
answer({ok, _}) -> "ok";
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

start_worker(Id) -> gen_server:start_link(?MODULE, {worker, Id}, []).

init({supervisor, Flags, Specs}) -> {ok, {Flags, Specs}};
init({worker, Id}) ->
    process_flag(trap_exit, true),
    case ets:lookup(spoilt, Id) of
        [{Id, Times}] when Times > 0 ->
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
terminate(_, {Id, stays}) -> say("stop ~s", [Id]);
terminate(_, _) -> ok.
