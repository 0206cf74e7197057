defmodule Leash.PoolTest do
  use Leash.Test.Case, async: false

  alias Leash.{OptionsError, Pool}
  alias Leash.Test.Name

  setup do
    nothing_is_listed_after()

    %{
      decoy: start_decoy("beside the pool"),
      name: String.to_atom(Name.unique("pool")),
      carrier: new_carrier()
    }
  end

  defp worker(line, carrier, options \\ []),
    do: Keyword.merge(command({:sh, line}, carrier), options)

  # Ignores its ladder's signal, so that it takes all of its time to end.
  @stubborn "trap '' TERM; while :; do sleep 1; done"

  test "numbered workers run under names, with their number in arguments and variables", %{
    name: name,
    carrier: carrier,
    decoy: decoy
  } do
    file = Path.join(tmp_dir!(), "out{n}")
    line = "echo $SLOT $1; exec sleep 60"

    options =
      worker(line, carrier, env: %{"SLOT" => "slot {n}"}, stdout: {:file, file})
      |> Keyword.update!(:args, &(&1 ++ ["sh", "arg {n}"]))

    {:ok, pool} = Pool.start_link(name: name, size: 3, worker: options)
    assert [{1, first}, {2, _}, {3, _}] = Pool.workers(name)
    assert GenServer.whereis(Pool.worker(name, 1)) == first

    for n <- 1..3 do
      path = String.replace(file, "{n}", "#{n}")
      assert_eventually(fn -> File.read(path) == {:ok, "slot #{n} arg #{n}\n"} end)
    end

    assert Enum.sort(for row <- Leash.list(), do: row.label) ==
             for(n <- 1..3, do: "#{inspect(name)} #{n}")

    # One that is killed is started again under its number.
    os = Observer.identity(Worker.os_pid(first))
    assert Worker.signal(Pool.worker(name, 1), :sigkill) == :ok
    assert_eventually(fn -> not Observer.alive?(os) end)
    assert_eventually(fn -> match?([{1, new} | _] when new != first, Pool.workers(name)) end)
    assert_eventually(fn -> Worker.os_pid(Pool.worker(name, 1)) != nil end)

    Supervisor.stop(pool)
    assert_gone(carrier)
    assert Pool.workers(name) == []
    assert_unharmed(decoy)
  end

  for {title, stop} <- [
        {"a stop", quote(do: &Supervisor.stop/1)},
        {"the shutdown of its parent", quote(do: &__MODULE__.shutdown/1)}
      ] do
    test "#{title} ends all workers at once and not one after the other", %{
      name: name,
      carrier: carrier,
      decoy: decoy
    } do
      options = worker(@stubborn, carrier, stop: [sigterm: 1_000])
      child = {Pool, name: name, size: 6, worker: options}
      {:ok, parent} = Supervisor.start_link([child], strategy: :one_for_one)
      assert_eventually(fn -> length(Carrier.members(carrier)) >= 6 end)
      {us, _ok} = :timer.tc(fn -> unquote(stop).(parent) end)
      assert us < 4_000_000
      assert_gone(carrier)
      assert_unharmed(decoy)
    end
  end

  def shutdown(pid) do
    Process.exit(pid, :shutdown)
    assert_receive {:EXIT, ^pid, :shutdown}, 10_000
  end

  test "the deadline is one for all", %{name: name, carrier: carrier} do
    options = worker(@stubborn, carrier, stop: [sigterm: 60_000])
    {:ok, pool} = Pool.start_link(name: name, size: 3, worker: options, deadline: 300)
    assert_eventually(fn -> length(Carrier.members(carrier)) >= 3 end)
    {us, :ok} = :timer.tc(fn -> Supervisor.stop(pool) end)
    assert us < 4_000_000
    assert_gone(carrier)
  end

  test "a pool that is killed leaves nothing", %{name: name, carrier: carrier, decoy: decoy} do
    {:ok, pool} = Pool.start_link(name: name, size: 2, worker: worker("exec sleep 60", carrier))

    assert_eventually(fn -> length(Carrier.members(carrier)) == 2 end)
    Process.exit(pool, :kill)
    assert_receive {:EXIT, ^pool, :killed}, 5_000
    assert_gone(carrier, 5_000)
    assert_unharmed(decoy)
  end

  test "a function of the number returns the options", %{name: name, carrier: carrier} do
    me = self()

    # The pool goes on without those that were stopped.
    more = [on_output: me, restart: :transient]
    options = fn n -> worker("echo #{n}; exec sleep 60", carrier, more) end
    {:ok, pool} = Pool.start_link(name: name, size: 2, worker: options, group: {:pool, name})

    for text <- ["1\n", "2\n"],
        do: assert_receive({:leash_output, _worker, :stdout, ^text}, 5_000)

    assert {:ok, [_, _]} = Leash.stop_all({:pool, name}, deadline: 1_000)
    assert_gone(carrier)
    assert_eventually(fn -> Pool.workers(name) == [] end)
    Supervisor.stop(pool)
  end

  test "wrong options are refused in a sentence, and nothing is started", %{name: name} do
    good = [command: "sleep", args: ["60"]]

    for {options, key} <- [
          {[size: 1, worker: good], :name},
          {[name: "x", size: 1, worker: good], :name},
          {[name: name, size: 0, worker: good], :size},
          {[name: name, size: 1], :worker},
          {[name: name, size: 1, worker: []], :worker},
          {[name: name, size: 1, worker: fn _ -> :none end], :worker},
          {[name: name, size: 1, worker: [name: :x] ++ good], :worker},
          {[name: name, size: 1, worker: [group: :x] ++ good], :worker},
          {[name: name, size: 1, worker: [stdin: :x] ++ good], :stdin},
          {[name: name, size: 1, worker: good, deadline: -1], :deadline}
        ] do
      assert %OptionsError{key: ^key} = catch_error(Pool.start_link(options))
    end

    assert Process.whereis(name) == nil
  end

  test "Erlang has pools, too", %{name: name} do
    worker = %{command: ~c"sleep", args: [~c"6{n}"]}
    spec = :leash.pool_child_spec(%{name: name, size: 2, worker: worker})
    {:ok, parent} = Supervisor.start_link([spec], strategy: :one_for_one)
    assert [{1, pid}, {2, _}] = :leash.pool_workers(name)
    assert %{args: ["61"]} = :leash.info(:leash.pool_worker(name, 1))
    assert :leash.info(pid).group == {Pool, name}
    Supervisor.stop(parent)
  end
end
