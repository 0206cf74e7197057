defmodule Leash.Supervisor do
  # The application's tree. It owns the table of workers and, through it, the pidfds of their
  # shims. They outlive a crash of the Reaper, which finds everything again when it restarts.
  @moduledoc false

  use Supervisor

  alias Leash.{Control, Guard, Reaper, RecordKeeper, Registry, Warden}
  alias Leash.Registry.ExitHistory

  # The time for the Reaper to end what is left. It consists of the Reaper's own deadline
  # (stop_timeout), two steps of a second, the warden's word (four) and a hunt of five.
  @reaper_margin_ms 12_000

  @spec start_link(Leash.Run.t()) :: Supervisor.on_start()
  def start_link(run), do: Supervisor.start_link(__MODULE__, run, name: __MODULE__)

  @impl true
  def init(run) do
    Registry.create()
    ExitHistory.create()

    children = [
      {RecordKeeper, run},
      # Before the first worker, and until the Reaper has ended the last.
      {Warden, run},
      Supervisor.child_spec({Reaper, run: run},
        shutdown: run.config.stop_timeout + @reaper_margin_ms
      ),
      Guard,
      # Last, so that no request to stop arrives while the application stops.
      {Control, run}
    ]

    # Restarts are cheap and lose nothing, so a storm of them must not cost the workers.
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 100, max_seconds: 10)
  end
end
