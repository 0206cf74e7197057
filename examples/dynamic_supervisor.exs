# Programs below a DynamicSupervisor, with a group for each tenant. One tenant's programs end
# while the others work. All of them end with the application.
#
#     mix run --no-halt examples/dynamic_supervisor.exs
#
# `kill -TERM` to the VM stops the application in order, `kill -KILL` does not. In both cases
# nothing is left. guides/pools.md shows the order of the calls.

defmodule MyApp.Tenants do
  @supervisor MyApp.Workers

  def child_spec(_options),
    do:
      {DynamicSupervisor, name: @supervisor, strategy: :one_for_one} |> Supervisor.child_spec([])

  @doc "Starts so many programs for a tenant."
  def add(tenant, count) do
    for _ <- 1..count do
      # Not :permanent. A program that is ended on purpose (`:normal`) stays away, and one that
      # fails comes back.
      worker = Supervisor.child_spec({Leash.Worker, options(tenant)}, restart: :transient)
      {:ok, pid} = DynamicSupervisor.start_child(@supervisor, worker)
      Leash.Worker.os_pid(pid)
    end
  end

  # Programs of tenants with an even number ignore the request to end.
  defp options({:tenant, number} = tenant) do
    trap = if rem(number, 2) == 0, do: "trap '' TERM; ", else: ""
    line = trap <> "setsid sleep 1000 & while :; do sleep 0.1; done"
    [shell: line, group: tenant, stop: [sigterm: 3_000]]
  end

  @doc """
  Ends a tenant's programs. Meanwhile the tenant's new programs are refused, and those of others
  are not.
  """
  def remove(tenant), do: Leash.stop_all(tenant, deadline: 500)
end

defmodule MyApp do
  use Application

  @impl true
  def start(_type, _arguments),
    do: Supervisor.start_link([MyApp.Tenants], strategy: :one_for_one)

  # Without this the supervisor would also end them in parallel, but grant each its ladder of
  # three seconds.
  @impl true
  def prep_stop(state) do
    {:ok, stopped} = Leash.stop_all(:all, deadline: 500)
    IO.puts("stopped #{length(stopped)}")
    state
  end
end

:ok =
  :application.load(
    {:application, :my_app,
     [
       description: ~c"tenants",
       vsn: ~c"1",
       modules: [MyApp, MyApp.Tenants],
       registered: [],
       applications: [:kernel, :stdlib, :elixir, :logger, :leash],
       mod: {MyApp, []}
     ]}
  )

{:ok, _started} = Application.ensure_all_started(:my_app)

[stay, ignore, leave] = for number <- 1..3, do: MyApp.Tenants.add({:tenant, number}, 2)
{:ok, [_one, _other]} = MyApp.Tenants.remove({:tenant, 3})

# The supervisor did not restart them, and the others work on.
true = Enum.all?(leave, &match?({:error, _gone}, Leash.OSProcess.identify(&1)))
%{active: 4} = DynamicSupervisor.count_children(MyApp.Workers)

IO.puts("ready " <> Enum.join(stay ++ ignore, " "))
