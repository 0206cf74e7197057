defmodule Leash.Situations.DevelopmentStackTest do
  @moduledoc """
  A development stack of six named services with eighty descendants of all kinds. Each service
  starts when the one before is ready. The whole stack stops in less than ten seconds.
  """

  use Leash.Test.Case, async: true

  @moduletag :slow

  @group {__MODULE__, :stack}

  # Name, number of processes, number of those that stay shells, and code.
  @services [
    # A daemon with its children, in a session of its own and without a parent in the tree.
    database: {15, 1, "setsid sh -c 'FOR 14; do sleep 300 & done; wait' >/dev/null 2>&1 &"},
    # Ignores the request to end, and so do its children.
    cache: {10, 0, "trap '' TERM; FOR 10; do sleep 300 & done"},
    # Children without environment, each in a session of its own.
    queue: {10, 0, "FOR 10; do setsid env -i sleep 300 & done"},
    # A pool that takes its time to end.
    workers: {20, 0, "trap 'sleep 1; exit 0' TERM; FOR 20; do sleep 300 & done"},
    # Pipelines.
    assets: {10, 0, "FOR 5; do tail -f /dev/null | cat & done"},
    # A chain, each the child of the one before.
    web: {15, 14, "CHAIN 15"}
  ]

  defp line(how) do
    how
    |> String.replace(~r/FOR (\d+)/, "for i in $(seq \\1)")
    |> String.replace(
      ~r/CHAIN (\d+)/,
      "f() { [ $1 = 1 ] && exec sleep 300; f $(($1 - 1)) & wait; }; f \\1 &"
    )
  end

  defp child({name, {_count, _shells, how}}, carriers) do
    # The trap of a shell that waits for its children runs at once.
    line =
      Carrier.enter(carriers[name]) <>
        line(how) <> "\necho ready; while :; do wait; sleep 0.2; done"

    Supervisor.child_spec(
      {Leash.Worker,
       shell: line,
       name: :"stack_#{name}",
       group: @group,
       ready: ~r/^ready/,
       on_output: fn _stream, _text -> :ok end,
       stop: [sigterm: 3_000]},
      restart: :transient
    )
  end

  # The processes beside the service itself. A child of a shell may lose a signal before its exec.
  defp descendants({name, _service}, carriers) do
    members = Carrier.members(carriers[name])
    shells = Enum.filter(members, fn {pid, _ticks} -> "-c" in Observer.argv(pid) end)
    {name, length(members) - 1, length(shells) - 1}
  end

  test "it stops completely in less than ten seconds" do
    decoy = start_decoy("beside a stack", argv: ["database"])
    carriers = for {name, _service} <- @services, into: %{}, do: {name, new_carrier()}
    children = Enum.map(@services, &child(&1, carriers))
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :rest_for_one)
    assert Supervisor.count_children(supervisor).active == 6

    expected = for {name, {count, shells, _how}} <- @services, do: {name, count, shells}
    assert expected |> Enum.map(&elem(&1, 1)) |> Enum.sum() == 80
    assert_eventually(fn -> Enum.map(@services, &descendants(&1, carriers)) == expected end)

    {us, {:ok, stopped}} = :timer.tc(fn -> Leash.stop_all(@group, deadline: 8_000) end)
    for {_name, carrier} <- carriers, do: assert_gone(carrier)
    assert us < 10_000_000

    steps = for %{label: label, result: {:ok, exit}} <- stopped, into: %{}, do: {label, exit.step}
    assert map_size(steps) == 6
    assert {":stack_cache", :sigkill} in steps
    assert {":stack_workers", :sigterm} in steps
    assert Supervisor.count_children(supervisor).active == 0
    assert_unharmed(decoy)
  end
end
