defmodule Mix.Leash.OperatorTask do
  # Runs the command `leash` for the tasks `mix leash.*`, with the project's configuration, and
  # ends with the status of the command.
  @moduledoc false

  @spec run(String.t(), [String.t()]) :: :ok
  def run(command, arguments) do
    configure()

    case Leash.Operator.run([command | arguments]) do
      0 -> :ok
      status -> exit({:shutdown, status})
    end
  end

  # Compiles and configures, and starts nothing. Quiet, because the output may be JSON for a
  # program.
  defp configure do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Quiet)

    try do
      Mix.Task.run("app.config")
    after
      Mix.shell(shell)
    end
  end
end
