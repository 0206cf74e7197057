defmodule Kennel do
  # An application with programs below its supervisor, as a release.
  #
  #     MIX_ENV=prod mix release
  #     _build/prod/rel/kennel/bin/kennel start
  #
  # `bin/kennel stop` and `kill -TERM` end the programs in order, each by its ladder. After `kill
  # -KILL`, their shims notice the end of the VM and do the same. If the shims were killed, too,
  # the next start ends what is left before it starts its own.
  @moduledoc false

  use Application

  # Each has a child in a session of its own, like programs that start servers or browsers.
  @program "setsid sleep 1000 & echo READY $$ $!; while :; do sleep 0.1; done"

  @impl true
  def start(_type, _arguments) do
    children =
      for name <- [Kennel.Embedder, Kennel.Indexer] do
        {Leash.Worker, shell: @program, name: name, ready: ~r/^READY/, stop: [sigterm: 1_000]}
      end

    with {:ok, supervisor} <- Supervisor.start_link(children, strategy: :one_for_one) do
      IO.puts("ready " <> Enum.map_join([Kennel.Embedder, Kennel.Indexer], " ", &pids/1))
      {:ok, supervisor}
    end
  end

  defp pids(name), do: "#{Leash.Worker.os_pid(name)} #{Leash.Worker.shim_pid(name)}"
end
